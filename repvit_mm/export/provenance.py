"""Where an exported model is from, in the words that are written into it."""
from typing import Any

from ..inference import InferenceModel

PAPER = 'RepViT: Revisiting Mobile CNN From ViT Perspective (CVPR 2024), https://arxiv.org/abs/2307.09283'
LICENSE = 'Apache-2.0'


def describe(model: InferenceModel) -> dict[str, Any]:
    """What an exported file says about itself.

    Args:
        model: The model that is exported.

    Returns:
        Keys and values, of text, numbers and lists.
    """
    from .. import version
    facts = {
        'description': f'RepViT {model.arch}, {model.task.covers}',
        'arch': model.arch,
        'task': model.task.name,
        'config': model.name,
        'checkpoint': model.checkpoint or 'none: random weights',
        'source': PAPER,
        'license': LICENSE,
        'repvit_mm_version': version.__version__,
        'mean': list(model.normalisation.mean),
        'std': list(model.normalisation.std),
        'channels': model.normalisation.channels,
    }
    if model.classes:
        facts['classes'] = list(model.classes)
    return facts
