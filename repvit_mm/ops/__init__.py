"""mmcv's operators on top of torchvision and torch, for an mmcv without its compiled extension.

``mmcv.ops`` imports the extension ``mmcv._ext``. mmcv's wheels on PyPI lack it, and building it needs
minutes, a compiler and a torch that is not too new. :func:`provide` puts :mod:`repvit_mm.ops.extension` in its place.
A compiled extension that can be loaded is always preferred.
"""
import ctypes
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module, metadata, util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from ..errors import UserError

__all__ = ['EXTENSION', 'find_compiled', 'is_provided', 'provide', 'torchvision_problem']

#: The module that ``mmcv.ops`` takes its operators from.
EXTENSION = 'mmcv._ext'


class _Finder(MetaPathFinder):
    """Finds :data:`EXTENSION`, and nothing else: the compiled one if it fits this torch, or else ours."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != EXTENSION:
            return None
        compiled = find_compiled(path)
        if compiled and _loads(compiled.origin):
            return compiled
        problem, command = torchvision_problem()
        if problem:
            # Not an ImportError: toolboxes take that for an mmcv without operators, and fail only later.
            raise UserError(f"mmcv's operators come from torchvision, and {problem}: {command}")
        return util.spec_from_file_location(name, Path(__file__).with_name('extension.py'))


def find_compiled(path: Sequence[str] | None) -> ModuleSpec | None:
    """The compiled extension of the mmcv in these folders, if it has one; it may fail to load."""
    return PathFinder.find_spec(EXTENSION, path)


def _loads(library: str) -> bool:
    """Whether a compiled extension can be loaded; if not, a warning says why."""
    import torch  # noqa: F401, the extension is linked to its libraries
    try:
        ctypes.CDLL(library)
    except OSError as error:
        warnings.warn(f"mmcv's compiled operators cannot be loaded, and torchvision's are used instead; they were "
                      f'compiled for another torch: {error}', stacklevel=2)
        return False
    return True


def torchvision_problem() -> tuple[str, str]:
    """Why torchvision cannot be used with this torch, and the command that fixes it; both empty if it can."""
    try:
        import_module('torchvision')
    except Exception as error:  # a torchvision built for another torch fails in many ways
        if isinstance(error, ModuleNotFoundError) and error.name == 'torchvision':
            return 'it is not installed', 'pip install torchvision'
        needed = [line for line in metadata.requires('torchvision') or [] if re.match('torch[^a-z]', line)]
        return (f'torchvision {metadata.version("torchvision")} needs {needed[0]}, from the same index, but '
                f'torch {metadata.version("torch")} is installed ({str(error).splitlines()[0]})',
                'pip install --force-reinstall torch torchvision')
    return '', ''


def provide() -> None:
    """Make :data:`EXTENSION` importable from here where mmcv has no working one. Imports nothing itself."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if 'mmdet.structures.mask' in sys.modules and 'mmcv.ops' not in sys.modules:
        warnings.warn("mmdet was imported before repvit_mm: some of its functions, such as cropping masks, do not find "
                      "mmcv's operators; import repvit_mm first", stacklevel=2)
    sys.meta_path.insert(0, _Finder())


def is_provided() -> bool:
    """Whether ``mmcv.ops`` uses the operators from here, not compiled ones. Imports mmcv."""
    return import_module(EXTENSION).__file__ == str(Path(__file__).with_name('extension.py'))
