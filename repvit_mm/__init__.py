"""RepViT for OpenMMLab: one backbone for mmpretrain, mmdetection and mmsegmentation."""
from .archs import ARCHS
from .backbone import RepViT
from .fusion import fuse

__all__ = ['ARCHS', 'RepViT', 'fuse']
