"""RepViT for mmpretrain: its head, distillation, and the pieces of its recipe that mmpretrain lacks.

The only part of the package that imports mmpretrain; configs name it in ``custom_imports``.
"""
from .distillation import DistilledClassifier
from .folders import ImageFolder, fit_to_folder
from .head import RepViTClsHead
from .hooks import ModelEmaHook, StopOnInvalidLossHook
from .optim import (
    AdaptiveClipAmpOptimWrapper,
    AdaptiveClipBfloat16OptimWrapper,
    AdaptiveClipOptimWrapper,
    PublishedCosineLR,
    TwoGroupsConstructor,
)
from .preprocessing import ErasingDataPreprocessor
from .report import ClassificationReport

__all__ = [
    'AdaptiveClipAmpOptimWrapper', 'AdaptiveClipBfloat16OptimWrapper', 'AdaptiveClipOptimWrapper',
    'ClassificationReport', 'DistilledClassifier', 'ErasingDataPreprocessor', 'ImageFolder', 'ModelEmaHook',
    'PublishedCosineLR', 'RepViTClsHead', 'StopOnInvalidLossHook', 'TwoGroupsConstructor', 'fit_to_folder',
]
