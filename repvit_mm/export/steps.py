"""What selects a detector's boxes, in two forms: of shapes that follow what is found, and of fixed shapes."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Steps:
    """Shapes follow what a picture holds, as ONNX and OpenVINO can."""

    def priors(self, head: nn.Module, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The priors of each map of a dense head.

        Args:
            head: A dense head.
            sizes: Height and width of each map.
        """
        return head.prior_generator.grid_priors(sizes, device='cpu')

    def pairs(self, scores: Tensor, number: int, threshold: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of a row and a class.

        Args:
            scores: (R, C), 0 to 1.
            number: At most so many; not positive for all.
            threshold: They score more; None for any.

        Returns:
            Score, row and class of each, all (N,).
        """
        if number <= 0 and threshold is not None:
            rows, labels = (scores > threshold).nonzero().unbind(1)
            return scores[rows, labels], rows, labels
        values, classes = scores.flatten(), scores.shape[1]
        length = torch.as_tensor(values.shape[0])  # which a graph of flexible size computes
        values, index = values.topk(torch.minimum(length, torch.tensor(number)) if number > 0 else length)
        if threshold is not None:
            values, index = self.where(values > threshold, values, index)
        return values, index // classes, index % classes

    def where(self, kept: Tensor, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """The entries of several tensors at which ``kept`` (N,) is true."""
        rows = kept.nonzero().squeeze(1)
        return tuple(values[rows] for values in (scores, *others))

    def candidates(self, number: int) -> int:
        """How many boxes suppression looks at to keep a number of them; not positive for all."""
        return -1

    def existing(self, objectness: Tensor, scores: Tensor) -> Tensor:
        """The scores (R, C) in regions, of those regions that exist."""
        return scores

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float,
                 number: int) -> tuple[Tensor, ...]:
        """Boxes, scores and groups that are left after suppression within each group, the best first.

        Args:
            boxes: (N, 4).
            scores: (N,).
            groups: (N,).
            threshold: IoU above which only the better one of two boxes is kept.
            number: At most so many.
        """
        from torchvision.ops import nms
        # Each group is moved to a place of its own, by as much as mmcv moves it: rounding then falls the same way. The
        # zero keeps the maximum defined when there is no box.
        step = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
        kept = nms(boxes + (groups.to(boxes) * step)[:, None], scores, threshold)[:number]
        return boxes[kept], scores[kept], groups[kept]

    def pool(self, extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """(N, 4) -> (N, channels, M, M): each box from the map of its size."""
        from torchvision.ops import roi_align
        rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], 1)  # all of picture 0
        layers = extractor.roi_layers
        pooled = boxes.new_zeros(boxes.shape[0], extractor.out_channels, *layers[0].output_size)
        levels = extractor.map_roi_levels(rois, len(layers))
        for level, (features, layer) in enumerate(zip(maps, layers, strict=False)):
            rows = (levels == level).nonzero().squeeze(1)
            values = roi_align(features, rois[rows], layer.output_size, layer.spatial_scale, layer.sampling_ratio,
                               layer.aligned)
            pooled = pooled.index_put((rows,), values)
        return pooled


class FixedSteps(Steps):
    """All shapes are known before a picture is seen; a place that holds nothing has the score 0.

    Suppression is a matrix that says which box would suppress which, and rounds in which those boxes act that are
    left: a box is decided one round after all that could suppress it, or after the first of them that stays.
    """

    #: Boxes that suppression looks at, the best: so many times as many as are kept, and at least this many.
    CANDIDATES = (10, 500)
    #: Of suppression; chains of boxes that would need more are not seen in pictures.
    ROUNDS = 20

    def __init__(self):
        self._priors: dict[nn.Module, list[Tensor]] = {}

    def priors(self, head: nn.Module, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        if head not in self._priors:  # constants of the graph
            self._priors[head] = super().priors(head, sizes)
        return self._priors[head]

    def pairs(self, scores: Tensor, number: int, threshold: float | None) -> tuple[Tensor, Tensor, Tensor]:
        values, classes = scores.flatten(), scores.shape[1]
        length = int(values.shape[0])
        values, index = values.topk(min(number, length) if number > 0 else length)
        if threshold is not None:
            values, index = self.where(values > threshold, values, index)
        return values, index // classes, index % classes

    def where(self, kept: Tensor, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return scores * kept.to(scores), *others

    def candidates(self, number: int) -> int:
        times, least = self.CANDIDATES
        return max(times * number, least)

    def existing(self, objectness: Tensor, scores: Tensor) -> Tensor:
        return scores * (objectness > 0).to(scores)[:, None]

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float,
                 number: int) -> tuple[Tensor, ...]:
        scores, order = scores.topk(min(self.candidates(number), int(scores.shape[0])))
        boxes, groups = boxes[order], groups[order]
        exists = (scores > 0).to(boxes)
        # Row by column: the better box, and the one that it suppresses. Places are counted, as a constant matrix would
        # be in the file.
        place = exists.cumsum(0)
        better = (place[:, None] < place[None]).to(boxes)
        suppresses = better * _overlap(boxes, threshold) * (groups[:, None] == groups[None]).to(boxes)
        left = exists
        for _ in range(self.ROUNDS):
            left = exists * ((left[None] @ suppresses)[0] < 0.5).to(boxes)
        scores, order = (scores * left).topk(min(number, int(scores.shape[0])))
        return boxes[order], scores, groups[order]

    def pool(self, extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
        scale = (sides[:, 0] * sides[:, 1]).sqrt() / extractor.finest_scale + 1e-6
        last, pooled = len(extractor.roi_layers) - 1, 0.
        for level, (features, layer) in enumerate(zip(maps, extractor.roi_layers, strict=False)):
            here = torch.ones_like(scale)
            if level > 0:
                here = here * (scale >= 2. ** level).to(boxes)
            if level < last:
                here = here * (scale < 2. ** (level + 1)).to(boxes)
            pooled = pooled + here[:, None, None, None] * _pool(layer, features, boxes)
        return pooled


def _overlap(boxes: Tensor, threshold: float) -> Tensor:
    """(N, 4) -> (N, N), 1 where the IoU is more than a threshold, else 0; without dividing by an empty union."""
    left, top, right, bottom = boxes.unbind(1)
    width = torch.minimum(right[:, None], right[None]) - torch.maximum(left[:, None], left[None])
    height = torch.minimum(bottom[:, None], bottom[None]) - torch.maximum(top[:, None], top[None])
    common, areas = width.clamp(min=0) * height.clamp(min=0), (right - left) * (bottom - top)
    return (common > threshold * (areas[:, None] + areas[None] - common)).to(boxes)


def _pool(layer: Any, features: Tensor, boxes: Tensor) -> Tensor:
    """Aligned RoIAlign of boxes (N, 4) within the picture, by sampling a map (1, C, H, W); gives (N, C, M, M')."""
    height, width = (int(length) for length in features.shape[2:])
    edges = boxes * layer.spatial_scale - 0.5  # in cells of the map, whose centres are at whole numbers
    rows, columns = (_places(edges[:, first], edges[:, first + 2], cells * layer.sampling_ratio, length)
                     for first, cells, length in ((1, layer.output_size[0], height), (0, layer.output_size[1], width)))
    number, down, across = int(boxes.shape[0]), int(rows.shape[1]), int(columns.shape[1])
    points = [places.expand(number, down, across) for places in (columns[:, None], rows[:, :, None])]
    values = F.grid_sample(features, torch.stack(points, 3).reshape(1, number * down, across, 2),
                           padding_mode='border', align_corners=True)
    values = F.avg_pool2d(values, layer.sampling_ratio) if layer.sampling_ratio > 1 else values
    channels, (down, across) = int(values.shape[1]), layer.output_size
    return values[0].reshape(channels, number, down, across).transpose(0, 1)


def _places(start: Tensor, end: Tensor, samples: int, length: int) -> Tensor:
    """(N, samples): the centres of as many equal parts of each interval, scaled from -1 at the first cell to 1."""
    places = start[:, None] + (end - start)[:, None] * ((torch.arange(samples) + 0.5) / samples)
    return places * (2 / max(length - 1, 1)) - 1
