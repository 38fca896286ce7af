"""Optional packages, imported where they are used."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ..errors import ExportError, UserError, first_line
from .tracing import quiet

#: Packages that the extra ``export`` does not install.
INSTALLED_BY = {'executorch': 'pip install "repvit-mm[executorch]"', 'ai_edge_litert': 'pip install ai-edge-litert',
                'ai_edge_quantizer': 'pip install --no-deps -r requirements-litert.txt',
                'litert_torch': 'pip install --no-deps -r requirements-litert.txt'}


def need(name: str) -> ModuleType:
    """Import an optional package; what it warns of, such as versions of others, is silenced.

    Raises:
        ExportError: If it is not installed, or cannot be imported.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')  # LiteRT's compiled code warns of its own log
    try:
        with quiet():
            return import_module(name)
    except Exception as error:  # beside other versions than its own, a package may raise anything
        package = name.partition('.')[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = 'is not installed' if missing else f'cannot be imported ({first_line(error)})'
        command = INSTALLED_BY.get(package, 'pip install "repvit-mm[export]"')
        raise ExportError(f'{package} {reason}: {command}') from error


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn any error of a converter or engine into an ExportError of one line.

    Args:
        what: Beginning of the line.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # each package has its own
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith('Exception from ')]
        reason = lines[0] if lines else type(error).__name__
        if 'data-dependent expression' in reason:
            reason = 'its shapes follow from values in tensors, which torch.export does not compute'
        raise ExportError(f'{what}: {reason}') from error
