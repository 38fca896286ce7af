"""Optional packages, imported where they are used."""
from importlib import import_module
from types import ModuleType

from ..errors import ExportError

#: Packages that the extra ``export`` does not install.
INSTALLED_BY = {'executorch': 'pip install "repvit-mm[executorch]"', 'ai_edge_litert': 'pip install ai-edge-litert',
                'ai_edge_quantizer': 'pip install --no-deps -r requirements-litert.txt',
                'litert_torch': 'pip install --no-deps -r requirements-litert.txt'}


def need(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ExportError: If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition('.')[0]:
            raise
        command = INSTALLED_BY.get(error.name, 'pip install "repvit-mm[export]"')
        raise ExportError(f'{error.name} is not installed: {command}') from error
