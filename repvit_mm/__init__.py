"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation."""
from .archs import ARCHS
from .backbone import RepViT
from .checkpoints import convert_state_dict, load_checkpoint
from .fusion import fuse

__all__ = ['ARCHS', 'RepViT', 'convert_state_dict', 'fuse', 'load_checkpoint']
