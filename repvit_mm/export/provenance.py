"""Metadata that say where an exported model is from."""
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.fileio import load

from ..errors import UserError
from ..inference import InferenceModel

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
    if results := published_results(model):
        facts['published_results'] = results
    return facts


def published_results(model: InferenceModel) -> dict[str, Any]:
    """Metric -> published figure of the weights, from the ``metafile.yml`` beside the config.

    Empty unless the checkpoint has the name of the released one: the figures are for these weights only.
    """
    if model.config is None or model.checkpoint is None:
        return {}
    metafile = Path(model.config.filename).with_name('metafile.yml')
    if not metafile.is_file():
        return {}
    with suppress(UserError, KeyError, TypeError, AttributeError):  # a file of that name for other things
        for entry in load(metafile)['Models']:
            if entry['Name'] == model.name and _weights_name(entry['Weights']) == _weights_name(model.checkpoint):
                return {f'{metric}, {result["Dataset"]}': value
                        for result in entry['Results'] for metric, value in result['Metrics'].items()}
    return {}


def _weights_name(checkpoint: str) -> str:
    return Path(checkpoint.removeprefix('repvit://')).stem.removeprefix('repvit_')
