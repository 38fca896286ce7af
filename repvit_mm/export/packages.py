"""Optional packages, imported where they are used."""
from importlib import import_module
from types import ModuleType

from ..errors import ExportError


def need(name: str, extra: str = 'export') -> ModuleType:
    """Import an optional package.

    Args:
        name: What is imported.
        extra: The extra of this package that brings it along.

    Raises:
        ExportError: If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition('.')[0]:
            raise
        raise ExportError(f'{error.name} is not installed: pip install "repvit-mm[{extra}]"') from error
