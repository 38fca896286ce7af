"""Rotated boxes: x and y of the centre, width, height, and an angle in radians, clockwise in the image."""
import torch
from torch import Tensor

from .common import wide

#: Pairs of boxes whose overlaps are computed at once.
CHUNK = 2 ** 16


def overlaps(first: Tensor, second: Tensor, of_first: bool = False) -> Tensor:
    """Intersection over union, or over the first box alone, of (..., 5) with (..., 5); 0 where it is undefined."""
    # In the frame of the second box, which spans -half to half there. Corners are in order around the first box.
    half = second[..., None, 2:4] / 2
    corners = second.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * first[..., None, 2:4] / 2
    corners = (_rotate(corners, first[..., None, 4] - second[..., None, 4])
               + _rotate((first - second)[..., None, :2], -second[..., None, 4]))
    # Split each edge where it crosses a side's line. Each part is then on one side of every line, so that moving it
    # onto the second box keeps the area within: what is outside becomes a path along the border.
    edges = corners.roll(-1, -2) - corners
    crossings = torch.cat([(-half - corners) / edges, (half - corners) / edges], dim=-1)
    parts = torch.cat([torch.zeros_like(crossings[..., :1]), crossings.nan_to_num(0).clamp(0, 1).sort(-1)[0]], dim=-1)
    points = corners[..., None, :] + parts[..., None] * edges[..., None, :]
    x, y = points.flatten(-3, -2).clamp(-half, half).unbind(-1)
    intersection = (x * y.roll(-1, -1) - y * x.roll(-1, -1)).sum(-1).abs() / 2
    area, other = first[..., 2] * first[..., 3], second[..., 2] * second[..., 3]
    return (intersection / (area if of_first else area + other - intersection)).nan_to_num(0, 0, 0)


def _rotate(points: Tensor, angle: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)


def box_iou_rotated(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Overlaps of all boxes (N * M), or of pairs (N), into ``ious``; mode 0 is IoU, 1 is over the first box (IoF)."""
    first, second = wide(bboxes1, bboxes2)
    if aligned:
        ious.copy_(overlaps(first, second, mode_flag == 1))
    elif ious.numel():
        rows = first[:, None].split(max(1, CHUNK // len(second)))
        ious.copy_(torch.cat([overlaps(part, second, mode_flag == 1) for part in rows]).flatten())


def nms_rotated(dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, labels: Tensor,
                iou_threshold: float, multi_label: bool) -> Tensor:
    """Indices of the boxes that are kept, by descending score; with ``multi_label``, each label on its own."""
    boxes, kept = wide(dets)[0][:, :5], []
    order = scores.argsort(descending=True, stable=True)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        suppressed = overlaps(boxes[best], boxes[rest]) > iou_threshold
        if multi_label:
            suppressed &= labels[best] == labels[rest]
        order = rest[~suppressed]
    return torch.stack(kept) if kept else order
