"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation.

The import registers RepViT in mmengine, and provides mmcv's operators where they are not compiled.
"""
import sys
from importlib import import_module
from typing import Any

from .ops import provide
from .version import __version__

#: Public name -> the module that defines it.
_HOMES = {'ARCHS': '.archs', 'RepViT': '.network.backbone', 'config_path': '.engine.config',
          'convert_state_dict': '.checkpoints', 'fuse': '.network.fusion', 'get_model': '.models.inference',
          'list_models': '.models.inference', 'load_checkpoint': '.checkpoints', 'out_channels': '.archs'}
__all__ = [*_HOMES, '__version__', 'register']


def register() -> None:
    """Register RepViT in mmengine: on import, or in our tools once they have read their options.

    Raises:
        ImportError: If mmengine is missing or cannot be imported.
    """
    if reason := _missing():
        raise ImportError(f'repvit_mm needs {reason}; `repvit-mm doctor` explains how to fix it')
    from mmengine.config.utils import MODULE2PACKAGE

    from .engine.config import add_scopes
    add_scopes(MODULE2PACKAGE)
    import_module('.network.backbone', __name__)


def _missing() -> str:
    """Why mmengine cannot be imported; empty if it can."""
    try:
        import_module('mmengine')
    except Exception as error:  # mmengine imports torch, and a broken torch can raise anything
        reason = ('is not installed' if isinstance(error, ModuleNotFoundError)
                  else f'cannot be imported: {str(error).strip().partition(chr(10))[0]}')
        return f'{getattr(error, "name", None) or "mmengine"}, which {reason}'
    return ''


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    register()
    return getattr(import_module(_HOMES[name], __name__), name)


provide()
# `repvit-mm doctor` has to get past this import to explain what is missing.
if 'repvit_mm_cli' not in sys.modules and not _missing():
    register()
