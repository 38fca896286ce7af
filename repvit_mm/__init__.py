"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation."""
from .command_line import starts_command
from .version import __version__

__all__ = ['ARCHS', 'RepViT', '__version__', 'config_path', 'convert_state_dict', 'fuse', 'load_checkpoint',
           'out_channels']

# The command lists what it can do without loading torch, and its doctor has to run where torch is missing.
if not starts_command():
    try:
        from mmengine.config.utils import MODULE2PACKAGE

        from .archs import ARCHS, out_channels
        from .backbone import RepViT
        from .checkpoints import convert_state_dict, load_checkpoint
        from .configs import config_path
        from .fusion import fuse
        from .ops import provide
        from .scopes import add_scopes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'repvit_mm needs {error.name}, which is not installed; `python -m repvit_mm doctor` says what adds it',
            name=error.name) from error

    provide()
    add_scopes(MODULE2PACKAGE)  # an installed package does so when Python starts
