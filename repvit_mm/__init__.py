"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation."""
from mmengine.config.utils import MODULE2PACKAGE

from .archs import ARCHS
from .backbone import RepViT
from .checkpoints import convert_state_dict, load_checkpoint
from .fusion import fuse
from .scopes import add_scopes

__all__ = ['ARCHS', 'RepViT', 'convert_state_dict', 'fuse', 'load_checkpoint']

add_scopes(MODULE2PACKAGE)  # an installed package does so when Python starts
