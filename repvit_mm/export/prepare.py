"""Input of an exporter: fused model, example inputs, metadata, options."""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..models.folding import fuse_model, relative_difference
from ..models.inference import InferenceModel
from ..toolboxes.datasets import datasets_of
from .calibration import Quantisation
from .detectors import Selection, WholeDetector, kind_of
from .images import load_fitted, load_inputs
from .tracing import traceable

PAPER = 'RepViT: Revisiting Mobile CNN From ViT Perspective (CVPR 2024), https://arxiv.org/abs/2307.09283'


class Options(NamedTuple):
    """Options of an export; :data:`repvit_mm.export.formats.FORMATS` lists those of each format.

    Attributes:
        precision: A key of :data:`repvit_mm.export.report.BOUNDS`, ``'int8'``, or ``'int8-weights'``, which computes
            in single precision; None for the format's default.
        images: Files to compare the outputs on; see :func:`repvit_mm.export.images.load_images`.
        selection: Detections that a whole detector keeps; None exports backbone and neck of a detector.
        dynamic_batch: Accept any number of images.
        dynamic_size: Accept any height and width; for segmentors and detectors, any multiple of 32.
        more_shapes: Further sizes that the file accepts.
        gelu: ``'tanh'`` approximates GELU by operations that NNAPI has; None is exact.
        weights: How the weights are stored, a key of :data:`repvit_mm.export.coreml.WEIGHTS`.
        layout: ``'nhwc'`` puts the channels of the image, and of maps among the outputs, last.
        quantisation: How an int8 file is made and judged; only for both int8 precisions.
    """

    precision: str | None = None
    images: Sequence[str | Path] = ()
    selection: Selection | None = None
    dynamic_batch: bool = False
    dynamic_size: bool = False
    more_shapes: Sequence[Sequence[int]] = ()
    gelu: str | None = None
    weights: str = 'float'
    layout: str = 'nchw'
    quantisation: Quantisation | None = None


class Subject(NamedTuple):
    """A model prepared for export.

    Attributes:
        model: In its fused form.
        inputs: Name -> an example; the first one is the image, of the shape that is exported.
        outputs: Names of the outputs.
        metadata: Metadata: preparation of the image, meaning of the outputs, origin of the weights.
    """

    model: InferenceModel | WholeDetector
    inputs: dict[str, Tensor]
    outputs: list[str]
    metadata: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image, in pixels."""
        return tuple(self.inputs['image'].shape[2:])

    @property
    def fused(self) -> InferenceModel:
        """The fused model, without the wrapper of a whole detector."""
        return self.model.fused if isinstance(self.model, WholeDetector) else self.model

    def load(self, path: str | Path) -> dict[str, np.ndarray]:
        """An image file as the inputs of an exported file."""
        image, size = load_fitted(path, self.shape, 'size' in self.inputs, self.fused.normalisation)
        inputs = {'image': image.numpy(), 'size': np.float32(size)}
        return {name: inputs[name] for name in self.inputs}


@torch.no_grad()
def prepare(model: InferenceModel, shape: Sequence[int], options: Options, fixed: bool = False) -> Subject:
    """Prepare a model for export.

    Args:
        model: Not modified.
        shape: Height and width of the image, in pixels.
        options: Of the export.
        fixed: Fix all shapes of a whole detector.

    Raises:
        ExportError: If it cannot be exported for images of this shape.
    """
    check_input(model, (shape, *options.more_shapes))
    fused = fuse_model(model, shape).float().cpu().requires_grad_(False)
    metadata = describe(fused)
    if options.gelu is not None:
        metadata['gelu_by_tanh'] = _approximate_gelu(fused, shape, options)
    if options.selection is None:
        inputs = {'image': torch.zeros(1, fused.in_channels, *shape)}
        return Subject(fused, inputs, fused.output_names(len(fused(inputs['image']))), metadata)
    one_size = not kind_of(fused).suppresses
    if one_size and options.dynamic_size:
        raise ExportError(f'{model.name} with its detections takes images of one size: leave out --dynamic-size')
    whole = WholeDetector(fused, options.selection, tuple(shape) if fixed or one_size else None)
    _try(model.name, whole, *whole.example(shape).values())
    metadata.update(whole.metadata(shape, options.dynamic_size))
    return Subject(whole, whole.example(shape), whole.output_names, metadata)


def _approximate_gelu(fused: InferenceModel, shape: Sequence[int], options: Options) -> float:
    """Replace GELU in place; returns the largest change of the outputs, relative to the largest value of each."""
    image = load_inputs(shape, 1, fused.normalisation, options.images)
    exact = fused(image)
    for module in fused.modules():
        if isinstance(module, nn.GELU):
            module.approximate = options.gelu
    return relative_difference(fused(image), exact)


@torch.no_grad()
def check_input(model: InferenceModel, shapes: Iterable[Sequence[int]]) -> None:
    """Check that the model can be exported for colour images of some heights and widths.

    Raises:
        ExportError: If it cannot.
    """
    if model.in_channels != 3:
        raise ExportError(f'{model.name} takes {model.in_channels} channels, and only models of colour images are '
                          'exported')
    for shape in shapes:
        check_shape(model, shape)
        _try(model.name, model, torch.zeros(1, 3, *shape))


def _try(name: str, model: nn.Module, image: Tensor, *others: Tensor) -> None:
    try:
        with traceable():  # mmcv's CARAFE fails without regions
            model(image, *others)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ExportError(f'{name} cannot run on images of {image.shape[2]} x {image.shape[3]}: '
                          f'{str(error).partition(chr(10))[0]}') from error


def check_shape(model: InferenceModel, shape: Sequence[int]) -> None:
    """Check that the model can be exported for a size of image.

    Raises:
        ExportError: If it is not a multiple of 32 for a model that adds feature maps of several resolutions.
    """
    height, width = shape
    stride = model.stride
    if model.task.adds_maps and (height % stride or width % stride):
        fit = ' '.join(str(-(-size // stride) * stride) for size in shape)
        raise ExportError(f'the shape {height} {width} must be a multiple of {stride} for {model.task.name}, which '
                          f'adds feature maps of several resolutions; the next larger one is {fit}')


def crop_of_test(model: InferenceModel) -> float | None:
    """The share of the shorter side that the test of a classifier's config crops from the middle; None for all."""
    for _, dataset in datasets_of(model.config or {}, ['test_dataloader']):
        steps = {step.get('type'): step for step in dataset.get('pipeline') or ()}
        edge, crop = steps.get('ResizeEdge', {}).get('scale'), steps.get('CenterCrop', {}).get('crop_size')
        if isinstance(edge, int) and isinstance(crop, int):
            return min(1., crop / edge)
    return None


def size_of_test(model: InferenceModel) -> tuple[int, int] | None:
    """Height and width of the images in the test of a model's config; None if unknown.

    A ``scale`` of another ratio than that of photographs (2048 x 512 in mmseg) bounds the sides: its square is taken.
    """
    size: tuple[int, ...] | None = None
    for _, dataset in datasets_of(model.config or {}, ['test_dataloader']):
        for step in dataset.get('pipeline') or ():
            given = next((step[key] for key in ('crop_size', 'scale', 'size') if step.get(key)), None)
            if isinstance(given, int):
                size = given, given
            elif isinstance(given, list | tuple) and all(isinstance(value, int) for value in given):
                size = tuple(given) if 'crop_size' in step else tuple(given)[::-1]  # a scale is width, height
    if size is None or len(size) != 2:
        return None
    if model.task.name == 'segmentation' and max(size) > 2 * min(size):
        size = (min(size),) * 2
    return tuple(-(-side // model.stride) * model.stride for side in size) if model.task.adds_maps else size


def describe(model: InferenceModel) -> dict[str, Any]:
    """The metadata of an exported file: name -> text, number or list."""
    from .. import version
    metadata = {
        'description': f'{model.network}, {model.task.covers}',
        'arch': model.arch,
        'task': model.task.name,
        'config': model.name,
        'checkpoint': model.checkpoint or 'random weights',
        'repvit_mm_version': version.__version__,
        'mean': list(model.normalisation.mean),
        'std': list(model.normalisation.std),
        'channels': model.normalisation.channels,
    }
    if (crop := crop_of_test(model)) is not None:
        metadata['crop_pct'] = crop
    if model.backbone is not None:
        metadata.update(source=PAPER, license='Apache-2.0')
    if model.classes:
        metadata['classes'] = list(model.classes)
    return metadata
