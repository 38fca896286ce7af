"""A whole detector as one graph: an image in; boxes, scores, labels and masks out.

The proof compares with mmdet's own results (:mod:`repvit_mm.export.detections`).
"""
import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ExportError
from ..models.inference import InferenceModel
from .heads import KINDS, Kind
from .images import load_inputs
from .steps import FixedSteps, Steps

#: Detections of a detector whose config does not limit them.
MAX_DETECTIONS = 300


class Selection(NamedTuple):
    """Detections to keep; None stands for the config's setting.

    Attributes:
        score_threshold: Lowest score, 0 to 1.
        iou_threshold: Of two of a class that overlap by more, the better one is kept, 0 to 1.
        max_detections: Largest number; the best are kept.
    """

    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None


class WholeDetector(nn.Module):
    """A fused detector with mmdet's postprocessing.

    Args:
        fused: The model; its head gets the selection as its ``test_cfg``.
        selection: Detections to keep.
        fixed: Height and width of the image, in pixels, to fix all shapes; None for shapes that follow the content of
            the image.

    Attributes:
        selection: The selection, completed by the config.
        mask_threshold: From which value a pixel belongs to an object; None without masks.

    Raises:
        ExportError: If a part is not supported.
    """

    def __init__(self, fused: InferenceModel, selection: Selection = Selection(),  # noqa: B008, it is immutable
                 fixed: Sequence[int] | None = None):
        super().__init__()
        self.fused, self.fixed, self.kind = fused, fixed, kind_of(fused)
        if fixed is not None and (reason := why_not_fixed(fused)):
            raise ExportError(f'{fused.name} {reason}; --pyramid exports its backbone and neck')
        self.steps = Steps() if fixed is None else FixedSteps(fixed)
        detector = fused.model
        head = detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head
        head.loss_cls = getattr(head, 'loss_cls', None)  # mmdet's SSDHead lacks it, and its prediction reads it
        self.selection = _apply(selection, head)
        self.mask_threshold = 0. if self.kind.masks_fill == 'image' else (
            head.test_cfg.mask_thr_binary if getattr(head, 'with_mask', False) else None)
        self.eval()  # torch.onnx.export returns to the mode of the outermost module

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs of :meth:`forward`."""
        return ['boxes', 'scores', 'labels', *([] if self.mask_threshold is None else ['masks'])]

    def example(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """Inputs by name, for an image of a height and width in pixels."""
        image = {'image': torch.zeros(1, self.fused.in_channels, *shape)}
        return image if self.fixed else {**image, 'size': torch.tensor(shape, dtype=torch.float)}

    def metadata(self, shape: Sequence[int], dynamic_size: bool) -> dict[str, Any]:
        """How to use the exported graph, for its metadata."""
        sizes = f'any multiple of {self.fused.stride}' if dynamic_size else ' x '.join(map(str, shape))
        normalise = 'channels in the order `channels`, (pixel - mean) / std'
        metadata = {
            'description': f'{self.fused.network}, {type(self.fused.model).__name__}',
            'task': 'detection', 'covers': 'the whole detector',
            'preprocessing': f'scale the image to height x width = {sizes}; {normalise}' if self.fixed else
                             f'scale the image, keeping its ratio, to fit into height x width = {sizes}; {normalise}; '
                             'put it at the upper left of zeros (1, 3, height, width). size: height and width of the '
                             'scaled image, float32',
            'postprocessing': f'{"entries with the score 0 are empty. " if self.fixed else ""}boxes (left, top, right, '
                              'bottom) are in pixels of the scaled image: divide by the scale. A label is an index '
                              f'into classes. masks are grids of cells that fill the {self.kind.masks_fill}: '
                              'interpolate linearly between the centres of the cells; an object is where they are at '
                              'least mask_threshold',
            **self.selection._asdict()}
        masks = {'mask_threshold': self.mask_threshold, 'masks_fill': self.kind.masks_fill}
        return metadata if self.mask_threshold is None else {**metadata, **masks}

    def forward(self, image: Tensor, size: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (1, channels, H, W), normalised, padded with zeros at the right and the bottom.
            size: (2,), float: height and width before padding. Boxes end there. With fixed shapes boxes end where the
                image does.

        Returns:
            ``boxes`` (N, 4): left, top, right, bottom in pixels of ``image``; ``scores`` (N,), falling; ``labels``
            (N,), int64; and with masks (N, M, M), probabilities of a grid of cells that fills the box, or of
            RTMDet-Ins (N, h, w), values of cells that fill the image. With fixed shapes N is the largest number of
            detections, and a score is 0 where there are fewer.
        """
        if self.fixed:
            size = torch.tensor(self.fixed, dtype=torch.float)
        return self.kind.detect(self.fused.model, self.fused.model.extract_feat(image), size, self.steps)


def kind_of(model: InferenceModel) -> Kind:
    """The kind of a detector.

    Raises:
        ExportError: If it is none of :data:`repvit_mm.export.heads.KINDS`, or suppresses otherwise; names the part.
    """
    detector = model.model
    kind = next((kind for kind in KINDS if kind.takes(detector)), None)
    head = getattr(detector, 'roi_head', getattr(detector, 'bbox_head', detector))
    if kind is None:
        raise ExportError(_refusal(model, type(head).__name__))
    for part in [head, getattr(detector, 'rpn_head', head)] if kind.suppresses else []:
        nms = (part.test_cfg or {}).get('nms') or {}
        if nms.get('type') != 'nms' or set(nms) - {'type', 'iou_threshold', 'split_thr'}:
            raise ExportError(_refusal(model, f'{type(part).__name__} with the suppression {dict(nms)}'))
    return kind


def why_not_fixed(model: InferenceModel) -> str:
    """The reason why a supported detector has no fixed shapes; empty if it has."""
    layers = [module for module in model.modules() if hasattr(module, 'sampling_ratio')]
    if any(layer.sampling_ratio <= 0 or not layer.aligned for layer in layers):
        return ('takes as many samples of a region as its size asks for (RoIAlign with sampling_ratio=0), and a graph '
                'of fixed shapes needs their number: set roi_layer.sampling_ratio in the config, with aligned=True')
    return ''


def _refusal(model: InferenceModel, part: str) -> str:
    return (f'{model.name} has {type(model.model).__name__} with {part}, which cannot be exported; supported are '
            f'{"; ".join(kind.name for kind in KINDS)}; with plain NMS. --pyramid exports the backbone and the neck of '
            'any detector')


def _apply(selection: Selection, head: nn.Module) -> Selection:
    """Set a head's ``test_cfg``, a copy of it, to the selection; returns the complete selection."""
    config = head.test_cfg = copy.deepcopy(head.test_cfg or {})
    config.setdefault('score_thr', 0.)
    config.setdefault('max_per_img', MAX_DETECTIONS)
    if selection.score_threshold is not None:
        config.score_thr = selection.score_threshold
    if selection.iou_threshold is not None and 'nms' in config:
        config.nms.iou_threshold = selection.iou_threshold
    if selection.max_detections is not None:
        config.max_per_img = selection.max_detections
    return Selection(config.score_thr, config.nms.iou_threshold if 'nms' in config else None, config.max_per_img)


@torch.no_grad()
def spread_outputs(model: InferenceModel, shape: Sequence[int] = (128, 128)) -> None:
    """Scale the layers behind the backbone of a detector with random weights, so that their outputs vary alike.

    Otherwise they blow up, scores come to 1 in most places, and rounding decides which of them is the largest: two
    computations of the same detector find different objects.

    Args:
        model: Changed in place.
        shape: Height and width of the photograph that gives the variances, in pixels.
    """
    from mmdet.structures import DetDataSample
    detector, layers = model.model, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, _BatchNorm)
    leave = {*detector.backbone.modules(), *(module.conv for module in detector.modules()
                                             if getattr(module, 'with_norm', False) and hasattr(module, 'conv'))}

    def scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hooks.pop(layer).remove()  # a layer of several maps is scaled by the first
        if not output.std() > 0 and layer.weight.ndim > 1:  # initialised with zeros
            layer.weight.normal_(std=layer.weight[0].numel() ** -0.5)
            output = layer(*inputs)
        factor = 1 / output.std()
        layer.weight *= factor
        if isinstance(layer, _BatchNorm):
            layer.bias *= factor
        return layer(*inputs)

    hooks = {module: module.register_forward_hook(scale) for module in detector.modules()
             if isinstance(module, layers) and module not in leave}
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), tuple(shape))
    sample = DetDataSample(metainfo=dict(**sizes, scale_factor=(1., 1.)))
    detector(load_inputs(shape, 1, model.normalisation), [sample], mode='tensor')
    for hook in hooks.values():
        hook.remove()
