"""RepViT for mmpretrain: head, distillation, data sets, report.

The only part of the package that imports mmpretrain; configs list it in ``custom_imports``.
"""
from ..io.class_folders import read_label_file
from .distillation import DistilledClassifier
from .folders import ImageFolder, find_classes
from .head import RepViTClsHead
from .names import register_names
from .preprocessing import ErasingDataPreprocessor
from .report import ClassificationReport

__all__ = [
    'ClassificationReport', 'DistilledClassifier', 'ErasingDataPreprocessor', 'ImageFolder', 'RepViTClsHead',
    'find_classes', 'read_label_file', 'register_names',
]
