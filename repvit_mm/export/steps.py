"""Selection of a detector's boxes, in two forms: with shapes that follow the content of an image, and fixed ones."""
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Steps:
    """Shapes follow the content of an image, as ONNX and OpenVINO can."""

    def pairs(self, scores: Tensor, number: int, threshold: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of a row and a class.

        Args:
            scores: (R, C), 0 to 1.
            number: Largest number; not positive for all.
            threshold: Lowest score; None for any.

        Returns:
            Score, row and class of each, all (N,).
        """
        values, classes = scores.flatten(), scores.shape[1]
        values, index = values.topk(self.at_most(number, values.shape[0]))
        if threshold is not None:
            values, index = self.where(values > threshold, values, index)
        return values, index // classes, index % classes

    def at_most(self, number: int, length: int) -> int | Tensor:
        """The smaller one of a number, unless it is not positive, and a length."""
        length = torch.as_tensor(length)  # computed by a graph of flexible size
        return torch.minimum(length, torch.tensor(number)) if number > 0 else length

    def where(self, kept: Tensor, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """The entries of several tensors at which ``kept`` (N,) is true."""
        rows = kept.nonzero().squeeze(1)
        return tuple(values[rows] for values in (scores, *others))

    def candidates(self, number: int) -> int:
        """Number of boxes that suppression looks at to keep ``number``; not positive for all."""
        return -1

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, number: int,
                 *others: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, groups and others after suppression within each group, the best first.

        Args:
            boxes: (N, 4).
            scores: (N,).
            groups: (N,).
            threshold: IoU above which only the better one of two boxes is kept.
            number: Largest number.
            others: (N, ...) each.
        """
        from torchvision.ops import nms
        # Each group is moved away from the others by as much as mmcv moves it, so that rounding is the same. The zero
        # keeps the maximum defined without any box.
        step = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
        kept = nms(boxes + (groups.to(boxes) * step)[:, None], scores, threshold)[:number]
        return tuple(values[kept] for values in (boxes, scores, groups, *others))

    def pool(self, extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """(N, 4) -> (N, channels, M, M): each box from the map of its size."""
        from torchvision.ops import roi_align
        rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], 1)  # all of image 0
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
    """All shapes are constants; an empty entry has the score 0.

    Suppression is a matrix of which box would suppress which, and rounds in which the remaining boxes act: a box is
    decided one round after all that could suppress it, or after the first of them that stays.

    Args:
        shape: Height and width of the image, in pixels.
    """

    #: Boxes that suppression looks at: this many times the number to keep, and at least the second number.
    CANDIDATES = (10, 500)
    #: Rounds of suppression; longer chains of boxes do not occur in images.
    ROUNDS = 20

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)

    def at_most(self, number: int, length: int) -> int:
        return min(number, int(length)) if number > 0 else int(length)

    def where(self, kept: Tensor, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return scores * kept.to(scores), *others

    def candidates(self, number: int) -> int:
        times, least = self.CANDIDATES
        return max(times * number, least)

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, number: int,
                 *others: Tensor) -> tuple[Tensor, ...]:
        scores, order = scores.topk(self.at_most(self.candidates(number), scores.shape[0]))
        boxes, groups, *others = (values[order] for values in (boxes, groups, *others))
        exists = (scores > 0).to(boxes)
        # Row by column: the better box, and the one that it suppresses. Counting places keeps a constant matrix out of
        # the file.
        place = exists.cumsum(0)
        better = (place[:, None] < place[None]).to(boxes)
        suppresses = better * _overlap(boxes, threshold) * (groups[:, None] == groups[None]).to(boxes)
        left = exists
        for _ in range(self.ROUNDS):
            left = exists * ((left[None] @ suppresses)[0] < 0.5).to(boxes)
        scores, order = (scores * left).topk(self.at_most(number, scores.shape[0]))
        boxes, *others = (values[order] for values in (boxes, groups, *others))
        return boxes, scores, *others

    def pool(self, extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        layers = extractor.roi_layers
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
        scale = (sides[:, 0] * sides[:, 1]).sqrt() / extractor.finest_scale + 1e-6
        levels = sum(((scale >= 2. ** level).long() for level in range(1, len(layers))), torch.zeros_like(scale).long())
        cells, geometry = _join(maps[:len(layers)], [layer.spatial_scale for layer in layers])
        scale, start, height, width = geometry[levels].split(1, 1)
        edges, samples = boxes * scale - 0.5, layers[0].sampling_ratio  # in cells, whose centres are at whole numbers
        down, across = (parts * samples for parts in layers[0].output_size)
        rows = _between(edges[:, 1:2], edges[:, 3:], down, height)
        columns = _between(edges[:, :1], edges[:, 2:3], across, width)
        values = 0.
        for (row, row_share), (column, column_share) in itertools.product(rows, columns):
            index = (start + width * row)[:, :, None] + column[:, None]
            share = row_share[:, :, None] * column_share[:, None]
            values = values + cells[index.flatten().long()] * share.flatten()[:, None]
        values = values.reshape(int(boxes.shape[0]), down, across, int(cells.shape[1])).permute(0, 3, 1, 2)
        return F.avg_pool2d(values, samples) if samples > 1 else values


def _overlap(boxes: Tensor, threshold: float) -> Tensor:
    """(N, 4) -> (N, N), 1 where the IoU exceeds a threshold, else 0; without dividing by an empty union."""
    left, top, right, bottom = boxes.unbind(1)
    width = torch.minimum(right[:, None], right[None]) - torch.maximum(left[:, None], left[None])
    height = torch.minimum(bottom[:, None], bottom[None]) - torch.maximum(top[:, None], top[None])
    common, areas = width.clamp(min=0) * height.clamp(min=0), (right - left) * (bottom - top)
    return (common > threshold * (areas[:, None] + areas[None] - common)).to(boxes)


def _join(maps: Sequence[Tensor], scales: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Join the cells of several maps into one list, so that a box is sampled in its map only.

    Args:
        maps: (1, C, H, W) each.
        scales: Of each map, cells per pixel.

    Returns:
        (cells, C), and for each map its scale, the number of its first cell, its height and its width.
    """
    sizes = [tuple(map(int, features.shape[2:])) for features in maps]
    starts = itertools.accumulate((height * width for height, width in sizes), initial=0)
    geometry = [(scale, start, *size) for scale, start, size in zip(scales, starts, sizes, strict=False)]
    return torch.cat([features[0].flatten(1) for features in maps], 1).T, torch.tensor(geometry)


def _between(start: Tensor, end: Tensor, samples: int, length: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """The two cells between which each sample of an interval lies, and their shares in it.

    Args:
        start: (N, 1), where each interval starts.
        end: (N, 1), where it ends.
        samples: Number of equal parts of the interval, whose centres are sampled.
        length: (N, 1), number of cells in the row; samples outside take the outermost cell.

    Returns:
        Cell and share of the first one, then of the second, all (N, samples).
    """
    places = start + (end - start) * ((torch.arange(samples) + 0.5) / samples)
    places = torch.minimum(places.clamp(min=0), length - 1)
    cell = places.floor()
    share = places - cell
    return (cell, 1 - share), (torch.minimum(cell + 1, length - 1), share)
