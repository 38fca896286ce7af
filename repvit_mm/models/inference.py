"""Models for inference, built from a config or an architecture's name, for counting, measuring and exporting."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import ARCHS
from ..checkpoints import load_into, read_checkpoint
from ..engine.config import installed_configs, load_config
from ..errors import ConfigError
from ..io.images import IMAGENET, Normalisation
from ..network.backbone import RepViT
from ..toolboxes import TOOLBOXES, Task, toolbox_of


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
        model: A RepViT, or a toolbox's model that holds one.
        task: How to run it.
        normalisation: Normalisation of the image.
        classes: Names of the classes; None if the model has no classes or they are unknown.
        config: The config it was built from; None for a bare backbone.
        checkpoint: Source of the weights; None if they are random.

    Attributes:
        backbone: The RepViT.
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
    def backbone(self) -> RepViT:
        return next(module for module in self.model.modules() if isinstance(module, RepViT))

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        stem = self.backbone.stem.conv1
        return getattr(stem, 'conv', stem).in_channels

    @property
    def arch(self) -> str:
        """Name of the architecture, or its widths and depths."""
        return str(self.backbone.arch)

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
        source: A config of mmpretrain, mmsegmentation or mmdetection with a RepViT, as for
            :func:`repvit_mm.engine.config.find_config`, or a name of :data:`repvit_mm.archs.ARCHS`; with the prefix
            ``sam_``, RepViT-SAM's image encoder.
        checkpoint: A file or name for :func:`repvit_mm.load_checkpoint`, fused or not.

    Returns:
        The model, on the CPU.

    Raises:
        ConfigError: If ``source`` is neither such a config nor a name, or cannot be built.
        CheckpointError: If the weights are missing or do not fit.
    """
    content = None if checkpoint is None else read_checkpoint(checkpoint)
    if str(source) in ARCHS:
        built = InferenceModel(str(source), RepViT(str(source)), BACKBONE)
    elif str(source).removeprefix('sam_') in ARCHS:
        from ..sam import SamEncoder
        built = InferenceModel(str(source), SamEncoder(str(source).removeprefix('sam_')), SAM_ENCODER)
    else:
        built = _build_from_config(Path(source), content)
    if checkpoint is not None:
        load_into(built.model, content, str(checkpoint))
        built.checkpoint, built.meta = str(checkpoint), _meta_of(content)
    return built


def _build_from_config(path: Path, checkpoint: Any) -> InferenceModel:
    if not path.suffix and not path.exists() and str(path) not in installed_configs():
        raise ConfigError(f'{path} is neither an architecture nor a config; architectures are {", ".join(ARCHS)}')
    config = load_config(path)
    toolbox = toolbox_of(config)
    if not toolbox.scope or 'model' not in config:
        raise ConfigError(f'{path} has default_scope={config.get("default_scope")!r} and '
                          f'{"a" if "model" in config else "no"} model; expected a model for one of '
                          f'{", ".join(TOOLBOXES)}')
    if 'data_preprocessor' in config:  # in mmpretrain's configs it is beside the model
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    classes = _classes_of(checkpoint) or toolbox.classes(config)
    if checkpoint is not None:
        toolbox.fit_to_weights(config, checkpoint)
    try:
        with DefaultScope.overwrite_default_scope(toolbox.scope):
            model = MODELS.build(config.model)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f'the model of {path} cannot be built: {" ".join(str(error).split())}') from error
    if not any(isinstance(module, RepViT) for module in model.modules()):
        raise ConfigError(f"the model of {path} has no RepViT; expected backbone=dict(type='RepViT', ...)")
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


def _classes_of(checkpoint: Any) -> Sequence[str] | None:
    """Names of the classes, as mmengine stores them in checkpoints."""
    stored = _meta_of(checkpoint).get('dataset_meta')
    return stored.get('classes') if isinstance(stored, Mapping) else None


def _meta_of(checkpoint: Any) -> dict[str, Any]:
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}


@torch.no_grad()
def randomise_weights(model: InferenceModel) -> None:
    """Randomise BatchNorms, so that every layer affects the outputs.

    The residual branches of a fresh RepViT output zero, so errors in fusing or exporting them would go unnoticed. This
    draws every BatchNorm's weight and bias, and measures its statistics on random images. They are always the same; the
    caller's random state is restored.

    Args:
        model: Changed in place.
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
        model(torch.randn(4, model.in_channels, 64, 64))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
