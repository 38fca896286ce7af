"""RepViT for mmpretrain: head, distillation, data sets, report.

Only this module and those that it imports need mmpretrain; configs name it in ``custom_imports``.
"""
from mmpretrain.apis import ModelHub

from ..checkpoints.download import ROOT
from .distillation import DistilledClassifier
from .folders import ImageFolder
from .head import RepViTClsHead
from .preprocessing import ErasingDataPreprocessor

__all__ = ['DistilledClassifier', 'ErasingDataPreprocessor', 'ImageFolder', 'RepViTClsHead',
           'register_names']


def register_names() -> None:
    """Let mmpretrain know our classifiers by name, with their published weights.

    This is the way that mmpretrain offers to other packages; it reads the metafile, which takes half a second.

    Example:
        >>> import mmpretrain
        >>> from repvit_mm.training.classification import register_names
        >>> register_names()
        >>> mmpretrain.list_models('repvit_m1_1')
        ['repvit_m1_1_300e', 'repvit_m1_1_distill_300e', 'repvit_m1_1_distill_450e']
    """
    if not ModelHub.has('repvit_m1_1_distill_300e'):
        ModelHub.register_model_index(ROOT / 'configs' / 'classification' / 'metafile.yml', config_prefix=ROOT)
