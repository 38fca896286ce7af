"""mmcv's operators where mmcv was installed without its compiled extension: on torchvision's and torch's own.

``mmcv.ops`` imports the extension ``mmcv._ext``. mmcv's wheels on PyPI have none, and building it takes minutes, a
compiler and a torch that is not too new. :func:`provide` puts :mod:`repvit_mm.ops.extension` in its place.
A compiled extension that loads always wins.
"""
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ['EXTENSION', 'is_provided', 'provide']

#: The module that ``mmcv.ops`` takes its operators from.
EXTENSION = 'mmcv._ext'


class _Loader(Loader):
    """Loads the compiled extension if there is one that fits this torch, or else ours."""

    def __init__(self, compiled: ModuleSpec | None):
        self.compiled = compiled

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if self.compiled is not None:
            import torch  # noqa: F401, its libraries are those that the extension is linked to
            try:
                return self.compiled.loader.create_module(self.compiled)
            except ImportError as error:
                warnings.warn(f'{self.compiled.origin} does not load, so the operators of torchvision are used in its '
                              f'place; mmcv was compiled for another torch: {error}', stacklevel=2)
                self.compiled = None
        from . import extension
        module = ModuleType(spec.name, extension.__doc__)
        module.__getattr__ = extension.__getattr__
        vars(module).update((name, getattr(extension, name)) for name in extension.__all__)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if self.compiled is not None:
            self.compiled.loader.exec_module(module)


class _Finder(MetaPathFinder):
    """Finds :data:`EXTENSION`, and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != EXTENSION:
            return None
        compiled = PathFinder.find_spec(name, path)
        return ModuleSpec(name, _Loader(compiled), origin=compiled.origin if compiled else None)


def provide() -> None:
    """From now on, import :data:`EXTENSION` from here where mmcv has none that works. Imports nothing itself."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_provided() -> bool:
    """Whether ``mmcv.ops`` uses the operators from here, not compiled ones. Imports mmcv."""
    from importlib import import_module
    return not hasattr(import_module(EXTENSION), '__file__')
