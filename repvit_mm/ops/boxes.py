"""Boxes: non-maximum suppression and overlaps. A box is x1, y1, x2, y2; ``offset`` is added to its size."""
import numpy as np
import torch
import torchvision  # noqa: F401, it registers torch.ops.torchvision
from torch import Tensor

from repvit_mm.ops.common import wide


def overlaps(first: Tensor, second: Tensor, offset: int = 0, of_first: bool = False) -> Tensor:
    """Intersection over union, or over the first box alone, of (..., 4) with (..., 4)."""
    def area(size: Tensor) -> Tensor:
        return size[..., 0] * size[..., 1]

    common = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = area((common + offset).clamp(min=0))
    first_area = area(first[..., 2:] - first[..., :2] + offset)
    if of_first:
        return intersection / first_area
    return intersection / (first_area + area(second[..., 2:] - second[..., :2] + offset) - intersection)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Overlaps of all boxes (N, M), or of pairs (N), into ``ious``; mode 0 is IoU, 1 is over the first box (IoF)."""
    first, second = wide(bboxes1, bboxes2)
    ious.copy_(overlaps(first if aligned else first[:, None], second, offset, of_first=mode == 1))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, by descending score; equal scores keep their order."""
    boxes, scores = wide(boxes, scores)
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # mmcv compares in float32, so that an IoU of exactly 0.6 is not over a threshold of 0.6; torchvision in float64.
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float,
            method: int, offset: int) -> Tensor:
    """Lower the scores of boxes that overlap a better one, and drop those below ``min_score``.

    Args:
        boxes: (N, 4), on the CPU.
        scores: (N).
        dets: (N, 5); its first rows become the boxes that are kept, with their new scores, best first.
        iou_threshold: From this IoU on, methods 0 and 1 lower scores, to zero and linearly.
        sigma: For method 2, which multiplies all scores by exp(-IoU² / sigma).
        min_score: Boxes whose score falls below are dropped.
        method: 0, 1 or 2.
        offset: 0 or 1.

    Returns:
        Indices of the boxes that are kept, in the same order.
    """
    boxes, scores = wide(boxes, scores)
    table, indices, count = torch.cat([boxes, scores[:, None]], dim=1), torch.arange(len(boxes)), len(boxes)
    first = 0
    while first < count:
        best = first + int(table[first:count, 4].argmax())
        for rows in (table, indices):
            rows[[first, best]] = rows[[best, first]]
        first += 1
        rest = table[first:count]
        iou = overlaps(table[first - 1, :4], rest[:, :4], offset).nan_to_num(0)
        if method == 2:
            rest[:, 4] *= torch.exp(-iou * iou / sigma)
        else:
            rest[:, 4] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else torch.zeros_like(iou), 1)
        # The last remaining boxes fill the gaps. This is mmcv's order, which decides between equal scores.
        stays = rest[:, 4] >= min_score
        count = first + int(stays.sum())
        gaps = first + (~stays[:count - first]).nonzero()[:, 0]
        fillers = count + stays[count - first:].nonzero()[:, 0].flip(0)
        for rows in (table, indices):
            rows[gaps] = rows[fillers]
    dets[:count] = table[:count].to(dets.dtype)
    return indices[:count]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Indices of each box of (N, 5) that NMS keeps, followed by those that it suppresses, by descending score."""
    dets, = wide(dets)
    order, groups = dets[:, 4].argsort(descending=True, stable=True), []
    while len(order):
        first, rest = order[0], order[1:]
        suppressed = overlaps(dets[first, :4], dets[rest, :4]) >= iou_threshold
        groups.append([int(first), *rest[suppressed].tolist()])
        order = rest[~suppressed]
    return groups
