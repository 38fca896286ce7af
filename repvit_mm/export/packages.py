"""Optional packages, imported where they are used."""
from importlib import import_module
from types import ModuleType

from ..errors import ExportError

#: Packages that the extra of the others does not bring along.
INSTALLED_BY = {'executorch': 'pip install "repvit-mm[executorch]"', 'ai_edge_litert': 'pip install ai-edge-litert',
                'ai_edge_quantizer': 'pip install --no-deps -r requirements-litert.txt',
                'litert_torch': 'pip install --no-deps -r requirements-litert.txt'}


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
        command = INSTALLED_BY.get(error.name, f'pip install "repvit-mm[{extra}]"')
        raise ExportError(f'{error.name} is not installed: {command}') from error
