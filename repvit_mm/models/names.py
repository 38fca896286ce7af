"""Models by name, ready for inference: ``get_model('maskrcnn_repvit_m1_1', pretrained=True)``."""
import difflib
import fnmatch
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..archs import ARCHS
from ..checkpoints import published
from ..checkpoints.download import SCHEME
from ..engine.config import CONFIG_SUFFIXES, find_config, installed_configs
from ..errors import CheckpointError, ConfigError
from ..toolboxes import toolbox_of
from .inference import build_inference_model

#: Suffixes of checkpoints, beside which their config is looked for.
CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors')


class Named(NamedTuple):
    """What the name of a model stands for.

    Attributes:
        source: An architecture, or the path of a config.
        weights: The weights that the name implies: the checkpoint that was named, or the published one; None if none
            is published.
    """

    source: str
    weights: str | None


def list_models(pattern: str = '*', pretrained: bool = False) -> list[str]:
    """Names for :func:`get_model`.

    Args:
        pattern: Names to select, with ``*`` and ``?``.
        pretrained: Select only those whose weights are published.

    Example:
        >>> import repvit_mm
        >>> repvit_mm.list_models('*rcnn*', pretrained=True)
        ['maskrcnn_repvit_m1_1', 'maskrcnn_repvit_m1_5', 'maskrcnn_repvit_m2_3', 'maskrcnn_repvit_m3']
    """
    return [name for name in fnmatch.filter([*ARCHS, *_configs()], pattern)
            if not pretrained or find_model(name).weights]


def get_model(name: str | Path, pretrained: bool | str | Path = False) -> nn.Module:
    """Build a model by its name, as the toolbox that it is for does in its ``init_detector`` or ``init_model``.

    The model has its config as ``cfg``, and the names and colours of its classes in ``dataset_meta``, so that
    ``mmdet.apis.inference_detector``, ``mmseg.apis.inference_model`` and mmpretrain's
    ``ImageClassificationInferencer`` take it. As after those functions, the toolbox is the default scope of mmengine.
    In this process, mmengine runs no code from checkpoints and YAML files from then on.

    Args:
        name: One of :func:`list_models`; an architecture gives the bare backbone. Or the path of a config, or of a
            checkpoint beside the config that it was trained with, or a ``repvit://`` name.
        pretrained: True takes the published weights (for an architecture those that our detectors start from) or the
            checkpoint that ``name`` is, False random ones. A path, or name as for :func:`repvit_mm.load_checkpoint`,
            takes these.

    Returns:
        The toolbox's model, in evaluation mode, on the CPU.

    Raises:
        ConfigError: If the name is unknown, or the config cannot be built.
        CheckpointError: If no weights are published, or they cannot be downloaded, or do not fit.

    Example:
        >>> import repvit_mm
        >>> detector = repvit_mm.get_model('maskrcnn_repvit_m1_1', pretrained=True)  # doctest: +SKIP
    """
    named = find_model(name)
    weights = named.weights if pretrained is True else pretrained or None
    if pretrained is True and weights is None:
        raise CheckpointError(f'no weights are published for {name}; give the path of yours. There are some for '
                              f'{", ".join(list_models("*_repvit_*", pretrained=True))} and for classifiers')
    built = build_inference_model(named.source, weights)
    if built.config is not None:
        toolbox_of(built.config).attach(built.model, built.config, built.meta)
    return built.model


def find_model(name: str | Path) -> Named:
    """Find the config and the weights that a name stands for, see :func:`get_model`.

    Raises:
        ConfigError: If there is no model of that name, or no config beside a checkpoint.
        CheckpointError: If a ``repvit://`` name is unknown.
    """
    text, path = str(name), Path(name).expanduser()
    if text in ARCHS:
        return Named(text, f'{SCHEME}{text}_distill_300e')
    if text.startswith(SCHEME):
        if text.removeprefix(SCHEME) not in published():
            raise CheckpointError(f'{text} is not a published checkpoint; choose from {", ".join(published())}')
        return Named(str(published()[text.removeprefix(SCHEME)].config), text)
    if path.suffix in CHECKPOINT_SUFFIXES:
        return Named(_config_beside(path), str(path))
    if path.suffix not in CONFIG_SUFFIXES and text not in _configs():
        names = list_models()
        close = difflib.get_close_matches(text, names, n=3)
        raise ConfigError(f'there is no model {text}; ' + (
            f'did you mean {" or ".join(close)}?' if close
            else f'give a config, a checkpoint, or a name: {", ".join(names)}'))
    config = find_config(path)
    names = {weights.config.resolve(): f'{SCHEME}{name}' for name, weights in published().items()}
    return Named(str(config), names.get(config.resolve()))


def _configs() -> dict[str, Path]:
    """The installed configs of models; those of RepViT-SAM train an image encoder."""
    return {name: path for name, path in installed_configs().items() if path.parent.name != 'sam'}


def _config_beside(checkpoint: Path) -> str:
    """The only config in the folder of a checkpoint, which a training leaves there."""
    configs = sorted(checkpoint.parent.glob('*.py'))
    if not checkpoint.is_file():
        raise CheckpointError(f'there is no checkpoint {checkpoint}')
    if len(configs) != 1:
        raise ConfigError(f'{checkpoint.parent} has {len(configs) or "no"} configs beside {checkpoint.name}; name the '
                          'config, and give the checkpoint with it')
    return str(configs[0])
