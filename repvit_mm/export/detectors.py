"""A whole detector as one graph: a picture in; boxes, scores, labels and masks out.

The steps between mmdet's layers are written anew: mmdet's own branch on what a picture holds, which a graph cannot.
The proof compares with mmdet's own results (:mod:`repvit_mm.export.detections`).
"""
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ExportError
from ..models.inference import InferenceModel
from .pictures import load_pictures, normalise, to_pixels
from .steps import FixedSteps, Steps

#: What can be exported, for the message about what cannot.
SUPPORTED = ('one-stage detectors whose head decodes as BaseDenseHead does (RetinaNet, FCOS, ATSS, RTMDet, ...) and '
             'two-stage ones of RPNHead and StandardRoIHead (Faster and Mask R-CNN), both with plain NMS')


class Selection(NamedTuple):
    """Which detections are kept; None leaves it to the config.

    Attributes:
        score_threshold: They score more, 0 to 1.
        iou_threshold: Of two of a class that overlap by more, the better one is kept, 0 to 1.
        max_detections: At most so many, the best.
    """

    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None


class WholeDetector(nn.Module):
    """A fused detector with all that mmdet does behind its layers.

    Args:
        fused: See :func:`repvit_mm.export.fused_for_export`; its head gets the selection as its ``test_cfg``.
        selection: Which detections are kept.
        fixed: Height and width of the image, in pixels, to have all shapes fixed; None for shapes that follow what is
            found.

    Attributes:
        selection: The same, with what the config says for None.
        mask_threshold: From which probability a pixel belongs to an object; None without masks.

    Raises:
        ExportError: If a part is not supported, or the selection is out of range.
    """

    def __init__(self, fused: InferenceModel, selection: Selection = Selection(),  # noqa: B008, it is immutable
                 fixed: Sequence[int] | None = None):
        super().__init__()
        self.fused, self.fixed = fused, fixed
        check_supported(fused, fixed is not None)
        self.steps = Steps() if fixed is None else FixedSteps()
        head = fused.model.roi_head if self.has_regions else fused.model.bbox_head
        self.selection = _apply(selection, head)
        self.mask_threshold = head.test_cfg.mask_thr_binary if self.output_names[3:] else None

    @property
    def has_regions(self) -> bool:
        """Whether there are two stages."""
        return hasattr(self.fused.model, 'rpn_head')

    @property
    def output_names(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        with_masks = self.has_regions and self.fused.model.roi_head.with_mask
        return ['boxes', 'scores', 'labels', *(['masks'] if with_masks else [])]

    def example(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """Inputs by name, for an image of a height and width in pixels."""
        image = {'image': torch.zeros(1, self.fused.in_channels, *shape)}
        return image if self.fixed else {**image, 'size': torch.tensor(shape, dtype=torch.float)}

    def facts(self, shape: Sequence[int], dynamic_size: bool) -> dict[str, Any]:
        """How to use the exported graph, for its metadata."""
        stride = max(self.fused.backbone.out_strides)
        sizes = f'any multiple of {stride}' if dynamic_size else ' x '.join(map(str, shape))
        normalise = 'channels in the order `channels`, (pixel - mean) / std'
        facts = {
            'description': f'RepViT {self.fused.arch}, {type(self.fused.model).__name__}',
            'task': 'detection', 'covers': 'the whole detector',
            'preprocessing': f'scale the picture to height x width = {sizes}; {normalise}' if self.fixed else
                             f'scale the picture, keeping its ratio, to fit into height x width = {sizes}; '
                             f'{normalise}; put it at the upper left of an image (1, 3, height, width) of zeros. '
                             'size: height and width of the scaled picture, float32',
            'postprocessing': f'{"what has the score 0 is not there. " if self.fixed else ""}boxes (left, top, right, '
                              'bottom) are in pixels of the image: divide by the scale. A label is an index into '
                              'classes. masks are probabilities in a grid of cells that fills the box: interpolate '
                              'linearly between the centres of the cells; an object is where they are at least '
                              'mask_threshold',
            **self.selection._asdict()}
        return facts if self.mask_threshold is None else {**facts, 'mask_threshold': self.mask_threshold}

    def forward(self, image: Tensor, size: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (1, channels, H, W), normalised; what is right of and below the picture is 0.
            size: (2,), float: height and width of the picture in it. Boxes end there. With fixed shapes boxes end where
                the image does.

        Returns:
            ``boxes`` (N, 4): left, top, right, bottom in pixels of ``image``; ``scores`` (N,), falling; ``labels``
            (N,), int64; and with masks (N, M, M): probabilities of a grid of cells that fills the box. With fixed
            shapes N is the largest number of detections, and a score is 0 where there are fewer.
        """
        if self.fixed:
            size = torch.tensor(self.fixed, dtype=torch.float)
        detector, steps = self.fused.model, self.steps
        maps = detector.extract_feat(image)
        if not self.has_regions:
            return _detect_densely(detector.bbox_head, maps, size, steps)
        regions = _detect_densely(detector.rpn_head, maps, size, steps, by_level=True)[:2]
        return _detect_in_regions(detector.roi_head, maps, regions, size, steps)


def check_supported(model: InferenceModel, fixed: bool = False) -> None:
    """Refuse a detector that decodes, selects or suppresses otherwise than :class:`WholeDetector` does.

    Args:
        model: A detector.
        fixed: With fixed shapes.

    Raises:
        ExportError: Names the part.
    """
    detector = model.model
    for part, base, methods in _parts(detector):
        if not isinstance(part, base) or any(
                getattr(type(part), method) is not getattr(base, method) for method in methods):
            raise ExportError(_refusal(model, f'{type(detector).__name__} with {type(part).__name__}'))
    roi_head = getattr(detector, 'roi_head', None)
    if roi_head is not None and (roi_head.with_shared_head or roi_head.bbox_head.custom_cls_channels):
        raise ExportError(_refusal(model, f'{type(roi_head).__name__} with a shared head or classes of its loss'))
    for head in [detector.rpn_head, roi_head] if roi_head is not None else [detector.bbox_head]:
        nms = (head.test_cfg or {}).get('nms') or {}
        if nms.get('type') != 'nms' or set(nms) - {'type', 'iou_threshold', 'split_thr'}:
            raise ExportError(_refusal(model, f'{type(head).__name__} with the suppression {dict(nms)}'))
    if fixed and (reason := why_not_fixed(model)):
        raise ExportError(f'{model.name} {reason}; --pyramid exports its backbone and neck')


def why_not_fixed(model: InferenceModel) -> str:
    """Why a detector that is supported does not have a form of fixed shapes; empty if it has one."""
    layers = [module for module in model.modules() if hasattr(module, 'sampling_ratio')]
    if any(layer.sampling_ratio <= 0 or not layer.aligned for layer in layers):
        return ('takes as many samples of a region as its size asks for (RoIAlign with sampling_ratio=0), and a graph '
                'of fixed shapes needs their number: set roi_layer.sampling_ratio in the config, with aligned=True')
    return ''


def _parts(detector: nn.Module) -> Iterator[tuple[Any, type, tuple[str, ...]]]:
    """What a detector consists of, the class that it has to be, and the methods that it has to have from there."""
    from mmdet import models
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    dense = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    if not hasattr(detector, 'rpn_head'):
        yield detector, models.SingleStageDetector, ('predict', 'extract_feat')
        yield detector.bbox_head, BaseDenseHead, dense
        return
    yield detector, models.TwoStageDetector, ('predict', 'extract_feat')
    yield detector.rpn_head, models.RPNHead, dense
    head = detector.roi_head
    yield head, models.StandardRoIHead, ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward')
    yield head.bbox_head, models.BBoxHead, dense[1:3]
    yield head.bbox_roi_extractor, models.SingleRoIExtractor, ('forward', 'map_roi_levels')
    if head.with_mask:
        yield head.mask_head, models.FCNMaskHead, dense[1:3]
        yield head.mask_roi_extractor, models.SingleRoIExtractor, ('forward', 'map_roi_levels')


def _refusal(model: InferenceModel, part: str) -> str:
    return (f'{model.name} has {part}, which cannot be exported; supported are {SUPPORTED}. --pyramid exports the '
            'backbone and the neck of any detector')


def _apply(selection: Selection, head: nn.Module) -> Selection:
    """Set a head's ``test_cfg``, a copy of it, to the selection; returns what holds then."""
    config = head.test_cfg = copy.deepcopy(head.test_cfg)
    for name, value in selection._asdict().items():
        least, most = (1, None) if name == 'max_detections' else (0, 1)
        if value is not None and not (least <= value and (most is None or value <= most)):
            option = f'--{name.replace("_", "-")}'
            raise ExportError(f'{option} {value} must be {"at least 1" if most is None else "from 0 to 1"}')
    if selection.score_threshold is not None:
        config.score_thr = selection.score_threshold
    if selection.iou_threshold is not None:
        config.nms.iou_threshold = selection.iou_threshold
    if selection.max_detections is not None:
        config.max_per_img = selection.max_detections
    return Selection(config.score_thr, config.nms.iou_threshold, config.max_per_img)


def _detect_densely(head: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: Steps,
                    by_level: bool = False) -> tuple[Tensor, ...]:
    """Boxes, scores and labels of a dense head.

    Args:
        head: Of one stage, or the first of two.
        maps: Of the neck.
        size: See :meth:`WholeDetector.forward`.
        steps: What selects.
        by_level: Suppress within each map instead of within each class, and keep any score: regions.
    """
    config, found = head.test_cfg, []
    outputs = head(maps)
    priors = steps.priors(head, [scores.shape[-2:] for scores in outputs[0]])
    for level, (points, *values) in enumerate(zip(priors, *outputs, strict=True)):
        # (1, K * C, H, W) -> (H * W * K, C), as the priors are ordered
        logits, deltas, *quality = (value[0].permute(1, 2, 0).reshape(-1, channels) for value, channels in zip(
            values, (head.cls_out_channels, head.bbox_coder.encode_size, 1), strict=False))
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(1)[:, :-1]
        scores, rows, labels = steps.pairs(scores, config.get('nms_pre', -1), None if by_level else config.score_thr)
        if quality:
            scores = scores * quality[0].sigmoid().squeeze(1)[rows]
        groups = torch.full_like(labels, level) if by_level else labels
        found.append((points[rows], deltas[rows], scores, groups))
    points, deltas, scores, groups = (torch.cat(parts) for parts in zip(*found, strict=True))
    boxes = _clip(head.bbox_coder.decode(points, deltas), size)
    if config.get('min_bbox_size', -1) >= 0:
        kept = ((boxes[:, 2:] - boxes[:, :2]) > config.min_bbox_size).all(1)
        scores, boxes, groups = steps.where(kept, scores, boxes, groups)
    return steps.suppress(boxes, scores, groups, config.nms.iou_threshold, config.max_per_img)


def _detect_in_regions(head: nn.Module, maps: Sequence[Tensor], regions: Sequence[Tensor], size: Tensor,
                       steps: Steps) -> tuple[Tensor, ...]:
    """Boxes, scores, labels and masks of the second stage.

    Args:
        head: The second stage.
        maps: Of the neck.
        regions: Boxes (R, 4), and scores (R,) of the first stage.
        size: See :meth:`WholeDetector.forward`.
        steps: What selects.
    """
    (regions, objectness), config = regions, head.test_cfg
    logits, deltas = head.bbox_head(steps.pool(head.bbox_roi_extractor, maps, regions))
    scores = steps.existing(objectness, logits.softmax(1)[:, :-1])
    scores, rows, labels = steps.pairs(scores, steps.candidates(config.max_per_img), config.score_thr)
    coder = head.bbox_head.bbox_coder
    deltas = deltas.reshape(deltas.shape[0], -1, coder.encode_size)
    deltas = deltas[rows, torch.zeros_like(labels) if head.bbox_head.reg_class_agnostic else labels]
    boxes = _clip(coder.decode(regions[rows], deltas), size)
    boxes, scores, labels = steps.suppress(boxes, scores, labels, config.nms.iou_threshold, config.max_per_img)
    if not head.with_mask:
        return boxes, scores, labels
    masks = head.mask_head(steps.pool(head.mask_roi_extractor, maps, boxes))
    channel = torch.zeros_like(labels) if head.mask_head.class_agnostic else labels
    return boxes, scores, labels, masks[torch.arange(labels.shape[0]), channel].sigmoid()


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (N, 4) cut off at the borders of the picture."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]])


@torch.no_grad()
def spread_outputs(model: InferenceModel, size: int = 128) -> None:
    """Scale what is behind the backbone of a detector with random weights, so that its layers give like variances.

    Otherwise they blow it up, scores come to 1 in most places, and which of them is the largest is up to rounding: two
    computations of the same detector find different objects.

    Args:
        model: Changed in place.
        size: Height and width of the photograph that gives the variances, in pixels.
    """
    from mmdet.structures import DetDataSample
    detector, layers = model.model, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, _BatchNorm)
    leave = {*detector.backbone.modules(), *(module.conv for module in detector.modules()
                                             if getattr(module, 'with_norm', False) and hasattr(module, 'conv'))}

    def scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hooks.pop(layer).remove()  # a layer of several maps is scaled by the first
        factor = 1 / output.std()
        layer.weight *= factor
        if isinstance(layer, _BatchNorm):
            layer.bias *= factor
        return layer(*inputs)

    hooks = {module: module.register_forward_hook(scale) for module in detector.modules()
             if isinstance(module, layers) and module not in leave}
    image = normalise(to_pixels(load_pictures((size, size), 1), model.normalisation.channels), model.normalisation)
    sample = DetDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1., 1.)))
    detector(image, [sample], mode='tensor')
    for hook in hooks.values():
        hook.remove()
