"""Metadata that say where an exported model is from."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.download import name_of, published
from ..models.inference import InferenceModel

PAPER = 'RepViT: Revisiting Mobile CNN From ViT Perspective (CVPR 2024), https://arxiv.org/abs/2307.09283'
LICENSE = 'Apache-2.0'


def describe(model: InferenceModel) -> dict[str, Any]:
    """The metadata of an exported file.

    Args:
        model: The exported model.

    Returns:
        Name -> text, number or list.
    """
    from .. import version
    facts = {
        'description': f'RepViT {model.arch}, {model.task.covers}',
        'arch': model.arch,
        'task': model.task.name,
        'config': model.name,
        'checkpoint': model.checkpoint or 'random weights',
        'source': PAPER,
        'license': LICENSE,
        'repvit_mm_version': version.__version__,
        'mean': list(model.normalisation.mean),
        'std': list(model.normalisation.std),
        'channels': model.normalisation.channels,
    }
    if model.classes:
        facts['classes'] = list(model.classes)
    if results := published_results(model):
        facts['published_results'] = dict(results)
    return facts


def published_results(model: InferenceModel) -> Mapping[str, float]:
    """``'Metric, data set'`` -> published figure of the weights.

    Empty unless config and checkpoint are the released ones: the figures are for these only.
    """
    weights = published().get(name_of((model.checkpoint or '').removeprefix('repvit://')))
    if weights is None or model.config is None:
        return {}
    is_released = Path(model.config.filename).resolve() == weights.config.resolve()
    return weights.metrics if is_released else {}
