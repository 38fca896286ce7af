"""Models by name, config or checkpoint, with weights or random, for inference, counting, measuring and exporting."""
import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import ARCHS
from ..checkpoints import classes_of, load_into, meta_of, published, read_checkpoint, tensors_of
from ..checkpoints.download import HUB, SCHEME
from ..checkpoints.formats import convert_state_dict, find_in
from ..engine.config import CONFIG_SUFFIXES, find_config, installed_configs, load_config
from ..errors import CheckpointError, ConfigError, did_you_mean
from ..io.images import IMAGENET, Normalisation
from ..network.backbone import RepViT
from ..toolboxes import TOOLBOXES, Task, toolbox_of

#: File of weights in a folder for the Hugging Face Hub.
HUB_WEIGHTS = 'model.safetensors'
#: Suffixes of checkpoints, beside which their config is searched.
CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors')


class Backbone(Task):
    """A bare RepViT."""

    name = covers = 'backbone'

    def forward(self, model: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """(N, channels, H, W), normalised -> the maps of the stages."""
        return model(image)

    def output_names(self, backbone: nn.Module, count: int) -> list[str]:
        """``stage1``, ..."""
        return [f'stage{i + 1}' for i in backbone.out_indices]


class SamEmbedding(Task):
    """The image encoder of RepViT-SAM."""

    name, covers = 'embedding', 'image encoder of RepViT-SAM'

    def forward(self, model: nn.Module, image: Tensor) -> Sequence[Tensor]:
        """(N, 3, H, W), normalised -> the embedding of the image."""
        return [model(image)]

    def output_names(self, backbone: nn.Module, count: int) -> list[str]:
        """``image_embeddings``."""
        return ['image_embeddings']


BACKBONE, SAM_ENCODER = Backbone(), SamEmbedding()


class InferenceModel(nn.Module):
    """A model in evaluation mode that maps a normalised image to a tuple of tensors.

    Args:
        name: Name in tables and files.
        model: A RepViT, or a toolbox's model.
        task: How to run it.
        normalisation: Normalisation of the image.
        classes: Names of the classes; None if the model has no classes or they are unknown.
        config: The config it was built from; None for a bare backbone.
        checkpoint: Source of the weights; None if they are random.

    Attributes:
        backbone: The RepViT; None for a model of another backbone.
        meta: The checkpoint's ``meta``.
    """

    def __init__(self, name: str, model: nn.Module, task: Task, normalisation: Normalisation = IMAGENET,
                 classes: Sequence[str] | None = None, config: Config | None = None, checkpoint: str | None = None):
        super().__init__()
        self.name, self.task, self.normalisation = name, task, normalisation
        self.classes = None if classes is None else tuple(classes)
        self.config, self.checkpoint = config, checkpoint
        self.meta: dict[str, Any] = {}
        self.model = model
        self.eval()

    @property
    def backbone(self) -> RepViT | None:
        return next((module for module in self.model.modules() if isinstance(module, RepViT)), None)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        if self.backbone is None:
            return len(self.normalisation.mean)
        stem = self.backbone.stem.conv1
        return getattr(stem, 'conv', stem).in_channels

    @property
    def arch(self) -> str:
        """Name of RepViT's architecture, or its widths and depths; class of another backbone."""
        return type(self.model.backbone).__name__ if self.backbone is None else str(self.backbone.arch)

    @property
    def network(self) -> str:
        """Name of the backbone."""
        return self.arch if self.backbone is None else f'RepViT {self.arch}'

    @property
    def stride(self) -> int:
        """Largest stride of the maps."""
        return 32 if self.backbone is None else max(self.backbone.out_strides)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, channels, H, W), normalised -> the outputs of :attr:`task`."""
        return tuple(self.task.forward(self.model, image))

    def output_names(self, count: int) -> list[str]:
        """Names of the ``count`` tensors that :meth:`forward` returns."""
        return self.task.output_names(self.backbone, count)


def build_inference_model(source: str | Path, checkpoint: str | Path | None = None) -> InferenceModel:
    """Build the model of a config, or a bare backbone.

    ``init_cfg`` is ignored, so nothing is downloaded for it: weights are those of ``checkpoint``, or random.

    Args:
        source: A config of mmpretrain, mmsegmentation or mmdetection, as for
            :func:`repvit_mm.engine.config.find_config`, or a name of :data:`repvit_mm.archs.ARCHS`; with the prefix
            ``sam_``, RepViT-SAM's image encoder. Or ``checkpoint`` itself, if it is of a classifier or backbone.
        checkpoint: A file or name for :func:`repvit_mm.load_checkpoint`, fused or not.

    Returns:
        The model, on the CPU.

    Raises:
        ConfigError: If ``source`` is neither such a config nor a name, or cannot be built.
        CheckpointError: If the weights are missing or do not fit.
    """
    content = None if checkpoint is None else read_checkpoint(checkpoint)
    if content is not None and str(source) == str(checkpoint):
        built = _build_from_weights(content, str(source))
    elif str(source) in ARCHS:
        built = InferenceModel(str(source), RepViT(str(source)), BACKBONE)
    elif str(source).removeprefix('sam_') in ARCHS:
        from ..sam import SamEncoder
        built = InferenceModel(str(source), SamEncoder(str(source).removeprefix('sam_')), SAM_ENCODER)
    else:
        built = _build_from_config(Path(source), content, checkpoint)
    if checkpoint is not None:
        load_into(built.model, content, str(checkpoint))
        built.checkpoint, built.meta = str(checkpoint), meta_of(content)
        if classes_of(content, checkpoint) or str(source) == str(checkpoint) and built.classes:
            built.meta['dataset_meta'] = {**(built.meta.get('dataset_meta') or {}), 'classes': built.classes}
    return built


def _build_from_weights(checkpoint: Any, source: str) -> InferenceModel:
    """The classifier or backbone of a file that comes without a config."""
    tensors = convert_state_dict(tensors_of(checkpoint, source))
    found, *_ = find_in(tensors, source)
    arch = found.arch
    if not arch.names:
        raise CheckpointError(f'{source} holds {arch}, and no config for it')
    if not found.has_head:
        return InferenceModel(arch.names[0], RepViT(arch.names[0]), BACKBONE)
    weight = next(tensors[name] for name in ('head.fc.linear.weight', 'head.fc.weight') if name in tensors)
    path = installed_configs()[f'repvit_{arch.names[0]}_distill_300e']
    return _build_from_config(path, checkpoint, source, {
        'num_classes': len(weight), 'distillation': 'head.fc_dist.linear.weight' in tensors})


def _build_from_config(path: Path, checkpoint: Any, source: Any,
                       head: Mapping[str, Any] | None = None) -> InferenceModel:
    if not path.suffix and not path.exists() and str(path) not in installed_configs():
        hint = did_you_mean(str(path), [*ARCHS, *installed_configs()], f'; architectures are {", ".join(ARCHS)}')
        raise ConfigError(f'{path} is neither an architecture nor a config{hint}')
    config = load_config(path)
    toolbox = toolbox_of(config)
    if not toolbox.scope or 'model' not in config:
        raise ConfigError(f'{path} has default_scope={config.get("default_scope")!r} and '
                          f'{"a" if "model" in config else "no"} model; expected a model for one of '
                          f'{", ".join(TOOLBOXES)}')
    if 'data_preprocessor' in config:  # in mmpretrain's configs it is beside the model
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    classes = classes_of(checkpoint, source) or toolbox.classes(config)
    if head:
        config.model.head.update(head)
        if len(classes or ()) != head['num_classes']:
            classes = [f'class {i}' for i in range(head['num_classes'])]
    elif checkpoint is not None:
        toolbox.fit_to_weights(config, checkpoint)
    try:
        with DefaultScope.overwrite_default_scope(toolbox.scope):
            model = MODELS.build(config.model)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f'the model of {path} cannot be built: {" ".join(str(error).split())}') from error
    return InferenceModel(path.stem, model, toolbox.task_of(model), normalisation_of(model.data_preprocessor), classes,
                          config)


def normalisation_of(preprocessor: nn.Module) -> Normalisation:
    """The normalisation of a toolbox's data preprocessor; toolboxes read images as BGR."""
    swaps = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'to_rgb', False))
    channels = 'RGB' if swaps else 'BGR'
    if not getattr(preprocessor, '_enable_normalize', False):
        return Normalisation((0.,) * 3, (1.,) * 3, channels)
    mean, std = (tuple(round(value, 4) for value in values.flatten().tolist())  # they are float32
                 for values in (preprocessor.mean, preprocessor.std))
    return Normalisation(mean, std, channels)


class Named(NamedTuple):
    """Config and weights behind the name of a model.

    Attributes:
        source: An architecture, the path of a config, or ``weights`` for a checkpoint without config.
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
        ['maskrcnn_repvit_m1_1', 'maskrcnn_repvit_m1_5', 'maskrcnn_repvit_m2_3']
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
            checkpoint beside the config that it was trained with, or a ``repvit://`` name. Or a classifier or backbone
            on the Hugging Face Hub, ``hf://OWNER/REPO``, or a folder as ``repvit-mm convert --hub`` writes it, which
            always come with their weights.
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
    is_alone = named.source == named.weights
    weights = named.weights if pretrained is True or is_alone and not pretrained else pretrained or None
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
    if (path / HUB_WEIGHTS).is_file():
        return Named(str(path / HUB_WEIGHTS), str(path / HUB_WEIGHTS))
    if text.startswith(HUB):
        return Named(text, text)
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


@torch.no_grad()
def randomise_weights(model: InferenceModel, images: Tensor | None = None) -> None:
    """Randomise BatchNorms, so that every layer affects the outputs.

    The residual branches of a fresh RepViT output zero, so errors in fusing or exporting them would go unnoticed. This
    draws every BatchNorm's weight and bias, and measures its statistics. They are always the same; the caller's random
    state is restored.

    Args:
        model: Changed in place.
        images: (N, channels, H, W), normalised, to measure the statistics on; None for noise of 64 x 64 pixels.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for norm in norms:
            if norm.affine:
                # Large random residuals would amplify rounding differences from block to block.
                low, high = (0.5, 1.5) if norm.weight.any() else (0.05, 0.15)
                norm.weight.uniform_(low, high)
                norm.bias.normal_(std=0.1)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # cumulative average
        model(torch.randn(4, model.in_channels, 64, 64) if images is None else images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
