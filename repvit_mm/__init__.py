"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation."""
from typing import Any

from .version import __version__

__all__ = ['ARCHS', 'RepViT', '__version__', 'config_path', 'convert_state_dict', 'fuse', 'get_model', 'list_models',
           'load_checkpoint', 'out_channels']

try:
    from mmengine.config.utils import MODULE2PACKAGE
except Exception as error:  # mmengine imports torch, and a broken torch can raise anything
    # `repvit-mm doctor` has to get past this import to explain what is missing.
    _reason = ('which is not installed' if isinstance(error, ModuleNotFoundError)
               else f'which cannot be imported: {str(error).strip().partition(chr(10))[0]}')
    _message = (f'repvit_mm needs {getattr(error, "name", None) or "mmengine"}, {_reason}; '
                '`repvit-mm doctor` explains how to fix it')

    def __getattr__(name: str) -> None:
        if name in __all__:
            raise ImportError(_message)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
else:
    from .archs import ARCHS, out_channels
    from .checkpoints import convert_state_dict, load_checkpoint
    from .engine.config import add_scopes, config_path
    from .network.backbone import RepViT
    from .network.fusion import fuse
    from .ops import provide

    provide()
    add_scopes(MODULE2PACKAGE)

    def __getattr__(name: str) -> Any:
        # Their module imports that of every toolbox, which a backbone does not need.
        if name in ('get_model', 'list_models'):
            from .models import inference as models
            return getattr(models, name)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
