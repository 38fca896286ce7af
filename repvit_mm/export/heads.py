"""The heads of mmdet as graphs: from the maps of the neck to boxes, scores, labels and masks.

The steps between mmdet's layers are written anew: mmdet's own branch on the content of an image, which a graph cannot.
"""
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.reading import replaced
from .steps import FixedSteps, Steps

#: Detections: boxes (N, 4), scores (N,), labels (N,), and with masks (N, M, M) or (N, h, w).
Found = tuple[Tensor, ...]


def detect_densely(head: nn.Module, outputs: Sequence[Sequence[Tensor]], size: Tensor, steps: Steps,
                   by_level: bool = False) -> Found:
    """Detect as ``BaseDenseHead``, ``GFLHead`` and ``RTMDetInsHead`` do.

    Args:
        head: Of one stage, or the first of two.
        outputs: Its maps: scores, boxes, and for some heads the quality of boxes or the weights of their own layers.
        size: (2,), height and width of the image before padding.
        steps: Select the boxes.
        by_level: Suppress within each map instead of within each class, and keep any score: regions.

    Returns:
        The detections; of RTMDet-Ins with the place (x, y, stride) that found each box, and its weights.
    """
    config, found, weights = head.test_cfg, [], getattr(head, 'num_gen_params', 0)
    priors = head.prior_generator.grid_priors([scores.shape[-2:] for scores in outputs[0]], device='cpu')
    integral = getattr(head, 'integral', None)
    width = head.bbox_coder.encode_size * (1 if integral is None else head.reg_max + 1)
    for level, (points, *values) in enumerate(zip(priors, *outputs, strict=True)):
        logits, deltas, *others = (_rows(value, channels) for value, channels in zip(
            values, (head.cls_out_channels, width, weights or 1), strict=False))
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(1)[:, :-1]
        scores, rows, labels = steps.pairs(scores, config.get('nms_pre', -1), None if by_level else config.score_thr)
        points, deltas, others = points[rows], deltas[rows], [values[rows] for values in others]
        stride = head.prior_generator.strides[level][0]
        if integral is not None:  # a distribution over distances to each side
            expected = deltas.reshape(-1, head.reg_max + 1).softmax(1) @ integral.project[:, None]
            points, deltas = head.anchor_center(points), expected.reshape(-1, 4) * stride
        if weights:
            others = [torch.cat([F.pad(points, (0, 1), value=stride), *others], 1)]
        elif others:
            scores, others = scores * others[0].sigmoid().squeeze(1), []
        found.append((points, deltas, scores, torch.full_like(labels, level) if by_level else labels, *others))
    points, deltas, scores, groups, *others = (torch.cat(parts) for parts in zip(*found, strict=True))
    boxes = _clip(head.bbox_coder.decode(points, deltas), size)
    if config.get('min_bbox_size', -1) >= 0:
        kept = ((boxes[:, 2:] - boxes[:, :2]) > config.min_bbox_size).all(1)
        scores, boxes, groups, *others = steps.where(kept, scores, boxes, groups, *others)
    return steps.suppress(boxes, scores, groups, config.nms.iou_threshold, config.max_per_img, *others)


def detect_with_own_layers(head: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: Steps) -> Found:
    """Run the head of RTMDet-Ins, and on its prototypes the layers that it predicts for each box.

    The masks (N, h, w) are of the whole image, and positive inside the objects.
    """
    *outputs, prototypes = head(maps)
    *found, own = detect_densely(head, outputs, size, steps)
    height, width = prototypes.shape[2:]
    cells = head.prior_generator.single_level_grid_priors((height, width), 0, device='cpu')
    places, stride, *parameters = own[:, :, None].split([2, 1, *head.weight_nums, *head.bias_nums], 1)
    weights, biases = parameters[:head.num_dyconvs], parameters[head.num_dyconvs:]
    weights = [weight.reshape(-1, channels, number // channels)
               for weight, number, channels in zip(weights, head.weight_nums, head.bias_nums, strict=True)]
    values = (weights[0][:, :, :2] @ ((places - cells.T) / (8 * stride))
              + weights[0][:, :, 2:] @ prototypes.flatten(2) + biases[0])
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        values = weight @ values.relu() + bias
    threshold = head.test_cfg.mask_thr_binary
    return *found, values.reshape(-1, height, width) - math.log(threshold / (1 - threshold))


def detect_with_yolox(head: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: Steps) -> Found:
    """Run the head of YOLOX: one class for each place, boxes that may end outside of the image."""
    outputs = head(maps)
    sizes = [scores.shape[-2:] for scores in outputs[0]]
    priors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu', with_stride=True))
    logits, deltas, objectness = (torch.cat([_rows(value, channels) for value in values]) for values, channels in zip(
        outputs, (head.cls_out_channels, 4, 1), strict=True))
    scores, labels = logits.sigmoid().max(1)
    scores = scores * objectness.sigmoid().squeeze(1)
    scores, boxes, labels = steps.where(scores >= head.test_cfg.score_thr, scores, head._bbox_decode(priors, deltas),
                                        labels)
    return steps.suppress(boxes, scores, labels, head.test_cfg.nms.iou_threshold, head.test_cfg.max_per_img)


def detect_in_regions(head: nn.Module, maps: Sequence[Tensor], regions: Sequence[Tensor], size: Tensor,
                      steps: Steps) -> Found:
    """Run a second stage, or the stages of a cascade.

    Args:
        head: The RoI head.
        maps: Of the neck.
        regions: Boxes (R, 4), and scores (R,) of the first stage.
        size: (2,), height and width of the image before padding.
        steps: Select the boxes.
    """
    (regions, objectness), config = regions, head.test_cfg
    stages, total = list(_stages(head.bbox_roi_extractor, head.bbox_head)), 0.
    for number, (extractor, bbox_head) in enumerate(stages, 1):
        logits, deltas = bbox_head(steps.pool(extractor, maps, regions))
        total, coder = total + logits / len(stages), bbox_head.bbox_coder
        if number < len(stages):
            deltas = _of_class(deltas, torch.arange(deltas.shape[0]), logits[:, :-1].argmax(1), bbox_head)
            regions = _clip(coder.decode(regions, deltas), size)
    scores = total.softmax(1)[:, :-1] * (objectness > 0).to(total)[:, None]  # with fixed shapes, some are empty
    scores, rows, labels = steps.pairs(scores, steps.candidates(config.max_per_img), config.score_thr)
    boxes = _clip(coder.decode(regions[rows], _of_class(deltas, rows, labels, bbox_head)), size)
    boxes, scores, labels = steps.suppress(boxes, scores, labels, config.nms.iou_threshold, config.max_per_img)
    if not head.with_mask:
        return boxes, scores, labels
    stages, masks = list(_stages(head.mask_roi_extractor, head.mask_head)), 0.
    for extractor, mask_head in stages:
        logits = mask_head(steps.pool(extractor, maps, boxes))
        channel = torch.zeros_like(labels) if mask_head.class_agnostic else labels
        masks = masks + logits[torch.arange(labels.shape[0]), channel].sigmoid() / len(stages)
    return boxes, scores, labels, masks


def detect_with_queries(detector: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: FixedSteps) -> Found:
    """Run the transformer and head of a detector of the DETR family, on an image of a fixed size without padding."""
    from mmdet.structures import DetDataSample
    sample = DetDataSample(metainfo=dict(img_shape=steps.shape, batch_input_shape=steps.shape))
    head = detector.bbox_head
    # The tracing exporter mistakes sizes of maps that are tensors.
    with replaced(torch, '_shape_as_tensor', lambda x: torch.tensor([int(length) for length in x.shape])):
        inputs = detector.forward_transformer(maps, [sample])
    logits, boxes, *_ = (values[-1][0] for values in head(**inputs))
    number = min(head.test_cfg.max_per_img, len(boxes))
    if head.loss_cls.use_sigmoid:
        scores, index = logits.sigmoid().flatten().topk(number)
        rows, labels = index // head.num_classes, index % head.num_classes
    else:
        scores, labels = logits.softmax(-1)[:, :-1].max(-1)
        scores, rows = scores.topk(number)
        labels = labels[rows]
    (x, y), (w, h) = boxes[rows, :2].unbind(1), (boxes[rows, 2:] / 2).unbind(1)
    boxes = torch.stack([x - w, y - h, x + w, y + h], 1) * size[[1, 0, 1, 0]]
    scores, boxes, labels = steps.where(scores > head.test_cfg.score_thr, scores, _clip(boxes, size), labels)
    return boxes, scores, labels


def _rows(value: Tensor, channels: int) -> Tensor:
    """(1, K * C, H, W) -> (H * W * K, C), in the order of the priors."""
    return value[0].permute(1, 2, 0).reshape(-1, channels)


def _stages(extractors: nn.Module, heads: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The stages of a cascade, or the only one."""
    return zip(extractors, heads, strict=True) if isinstance(heads, nn.ModuleList) else iter([(extractors, heads)])


def _of_class(deltas: Tensor, rows: Tensor, labels: Tensor, bbox_head: nn.Module) -> Tensor:
    """The deltas of some rows for their labels: (R, classes * 4) -> (N, 4)."""
    deltas = deltas.reshape(deltas.shape[0], -1, bbox_head.bbox_coder.encode_size)
    return deltas[rows, torch.zeros_like(labels) if bbox_head.reg_class_agnostic else labels]


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (N, 4) cut off at the borders of the image."""
    return torch.minimum(boxes.clamp(min=0), size[[1, 0, 1, 0]])


def _detect_in_one_stage(detector: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: Steps) -> Found:
    return detect_densely(detector.bbox_head, detector.bbox_head(maps), size, steps)


def _detect_in_two_stages(detector: nn.Module, maps: Sequence[Tensor], size: Tensor, steps: Steps) -> Found:
    regions = detect_densely(detector.rpn_head, detector.rpn_head(maps), size, steps, by_level=True)[:2]
    return detect_in_regions(detector.roi_head, maps, regions, size, steps)


class Kind(NamedTuple):
    """A kind of detector.

    Attributes:
        name: Name in messages.
        detect: ``(detector, maps, size, steps)`` returns the detections.
        head: Name of the head in ``mmdet.models``, or ``'BaseDenseHead'``.
        methods: What heads of the kind inherit unchanged: how they decode.
        part: Attribute of the detector that is the head.
        suppresses: Whether it suppresses overlapping boxes; detectors that do not take images of one size only.
        masks_fill: What a mask fills: its ``'box'``, or the ``'image'``.
    """

    name: str
    detect: Callable[[nn.Module, Sequence[Tensor], Tensor, Steps], Found]
    head: str
    methods: tuple[str, ...] = ('predict_by_feat', '_predict_by_feat_single')
    part: str = 'bbox_head'
    suppresses: bool = True
    masks_fill: str = 'box'

    def takes(self, detector: nn.Module) -> bool:
        """Whether a detector is of this kind."""
        from mmdet import models
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        head, base = getattr(detector, self.part, None), getattr(models, self.head, BaseDenseHead)
        return isinstance(head, base) and all(
            getattr(type(head), method) is getattr(base, method) for method in self.methods)


_IN_REGIONS = ('predict_bbox', 'predict_mask')
#: The kinds of detectors that can be exported as a whole; the proof compares each with mmdet itself.
KINDS = (
    Kind('Faster and Mask R-CNN', _detect_in_two_stages, 'StandardRoIHead', _IN_REGIONS, 'roi_head'),
    Kind('Cascade R-CNN', _detect_in_two_stages, 'CascadeRoIHead', _IN_REGIONS, 'roi_head'),
    Kind('one-stage detectors that decode as BaseDenseHead does (RetinaNet, FCOS, ATSS, RTMDet, ...)',
         _detect_in_one_stage, 'BaseDenseHead'),
    Kind('RTMDet-Ins', lambda detector, *args: detect_with_own_layers(detector.bbox_head, *args), 'RTMDetInsHead',
         ('predict_by_feat', '_predict_by_feat_single', '_bbox_mask_post_process'), masks_fill='image'),
    Kind('GFL', _detect_in_one_stage, 'GFLHead'),
    Kind('YOLOX', lambda detector, *args: detect_with_yolox(detector.bbox_head, *args), 'YOLOXHead'),
    Kind('DETR, Deformable DETR, DINO and the like', detect_with_queries, 'DETRHead', ('_predict_by_feat_single',),
         suppresses=False),
)
