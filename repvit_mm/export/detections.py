"""What a detector finds: masks put into the picture, and the proof that an exported file finds what mmdet finds."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .detectors import WholeDetector
from .pictures import load_pictures, normalise, to_pixels
from .runtimes import ExportedFile
from .verification import Bounds, Comparison

#: How often noise is drawn.
DRAWS = 2
#: The largest part of the detections that may depend on such noise.
UNSTABLE = 0.25


class Detections(NamedTuple):
    """What was found in a picture.

    Attributes:
        boxes: (N, 4): left, top, right, bottom in pixels.
        scores: (N,).
        labels: (N,).
        masks: (N, M, M), probabilities of the cells of the boxes; None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def paste(mask: np.ndarray, box: Sequence[float], height: int, width: int) -> np.ndarray:
    """Put a mask into its picture, interpolated between the centres of its cells.

    Args:
        mask: (M, M), the values of a grid of cells that fills the box.
        box: Left, top, right, bottom in pixels of the picture.
        height: Of the picture.
        width: Of the picture.

    Returns:
        (height, width); less than 0.5 outside of the box.
    """
    left, top, right, bottom = box
    rows, columns = (_shares(length, start, end, len(mask)) for length, start, end in
                     ((height, top, bottom), (width, left, right)))
    return rows @ mask @ columns.T


def _shares(pixels: int, start: float, end: float, cells: int) -> np.ndarray:
    """(pixels, cells): how much of each cell is in each pixel, along one axis."""
    places = (np.arange(pixels, dtype=np.float32) + 0.5 - start) / max(end - start, 1e-6) * cells - 0.5
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells, dtype=np.float32)))


def detect(file: ExportedFile, image: Tensor, size: Sequence[int]) -> Detections:
    """Run a file.

    Args:
        file: A whole detector.
        image: (1, channels, H, W), normalised.
        size: Height and width of the picture in it.
    """
    outputs = file.run({'image': image.numpy(), 'size': np.array(size, np.float32)})
    there = outputs['scores'] > 0  # all, but in a file of fixed shapes
    found = Detections(**{name: values[there] for name, values in outputs.items()})
    return found._replace(boxes=np.minimum(found.boxes, np.tile(np.array(size[::-1], np.float32), 2)))


@torch.no_grad()
def detect_with_mmdet(whole: WholeDetector, image: Tensor, size: Sequence[int]) -> Detections:
    """The same of mmdet itself, the masks (N, H, W) in the picture already, of steps of 1/255."""
    from mmdet.structures import DetDataSample
    detector = whole.fused.model
    config = detector.roi_head.test_cfg if whole.has_regions else {}
    if whole.mask_threshold is not None:
        config.mask_thr_binary = -1  # probabilities, please
    sample = DetDataSample(metainfo=dict(img_shape=tuple(size), ori_shape=tuple(size), scale_factor=(1., 1.)))
    found = detector.predict(image, [sample])[0].pred_instances
    if whole.mask_threshold is not None:
        config.mask_thr_binary = whole.mask_threshold
    masks = found.masks.numpy() if whole.mask_threshold is not None else None
    return Detections(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks)


def partners(these: Detections, those: Detections, side: int, bounds: Bounds) -> np.ndarray:
    """For each one of ``these`` the index of the same detection among ``those``; -1 where there is none.

    Args:
        these: Of a picture.
        those: Of the same picture.
        side: The longer one of the image.
        bounds: How far apart they may be.
    """
    if not len(these.boxes) or not len(those.boxes):
        return np.full(len(these.boxes), -1)
    apart = np.abs(these.boxes[:, None] - those.boxes[None]).max(2) / side
    same = ((apart <= bounds.boxes) & (these.labels[:, None] == those.labels[None])
            & (np.abs(these.scores[:, None] - those.scores[None]) <= bounds.scores))
    return np.where(same.any(1), np.where(same, apart, np.inf).argmin(1), -1)


def unmatched(these: Detections, those: Detections, side: int, bounds: Bounds) -> int:
    """How many detections have no partner, on the side that has more of them."""
    return max(int((partners(*pair, side, bounds) < 0).sum()) for pair in ((these, those), (those, these)))


def prove_detections(file: ExportedFile, whole: WholeDetector, shape: Sequence[int], bounds: Bounds,
                     pictures: Sequence[str | Path] = ()) -> list[Comparison]:
    """Compare what a file finds with what mmdet finds: two pictures that fill the image and one that does not (a third
    that does, if its shapes are fixed).

    Where two scores are equal but for rounding, or two boxes overlap by just the threshold, rounding decides what is
    found. As many detections may differ as differ in mmdet when noise of that size is added to the picture. A picture
    of one colour, in which a detector mostly finds nothing, has to run as well.

    Args:
        file: To prove.
        whole: What it was exported from.
        shape: Height and width of the image.
        bounds: What it may differ by.
        pictures: See :func:`repvit_mm.export.load_pictures`.

    Returns:
        One entry for each output, of all pictures; that of the labels is the part of detections without a partner.

    Raises:
        ExportError: If it finds something else, or mmdet finds nothing that would prove anything.
    """
    differences: dict[str, list[np.ndarray]] = {}
    number, differing, allowed, side = 0, 0, 0, max(shape)
    generator = torch.Generator().manual_seed(0)
    for image, size in _cases(whole, shape, pictures):
        expected, found = detect_with_mmdet(whole, image, size), detect(file, image, size)
        noisy = [image + bounds.noise * torch.randn(image.shape, generator=generator) for _ in range(DRAWS)]
        number += len(expected.boxes)
        differing += unmatched(expected, found, side, bounds)
        allowed += max(unmatched(expected, detect_with_mmdet(whole, other, size), side, bounds) for other in noisy)
        for name, values in _differences(expected, found, side, bounds).items():
            differences.setdefault(name, []).append(values)
    if not number:
        raise ExportError(f'{file.path.name} cannot be proven: PyTorch finds no object in these pictures that scores '
                          f'more than {whole.selection.score_threshold:g}; give --pictures with objects that it knows, '
                          'or a lower --score-threshold')
    if allowed > UNSTABLE * number:
        raise ExportError(f'{file.path.name} cannot be proven: of {number} objects that PyTorch finds in these '
                          f'pictures, {allowed} depend on rounding; give --pictures with objects that it knows')
    if differing > allowed:
        raise ExportError(f'{file.path.name} differs from PyTorch: {differing} of {number} detections have no partner '
                          f'of the same label, within {bounds.boxes:g} of the image in place and {bounds.scores:g} in '
                          f'score; rounding explains {allowed}. With a model that has learned little, give --pictures '
                          'with objects that it knows')
    results = [Comparison('labels', (number,), differing / number, differing / number, allowed / number)]
    for name, parts in differences.items():
        values, bound = np.concatenate(parts), getattr(bounds, name)
        results.append(Comparison(name, values.shape, float(values.max()), float(np.sqrt((values ** 2).mean())), bound))
        if not values.max() <= bound:
            raise ExportError(f"{name} differ from PyTorch's by {values.max():.2g}, more than {bound:g}")
    return results


def _cases(whole: WholeDetector, shape: Sequence[int],
           pictures: Sequence[str | Path]) -> list[tuple[Tensor, tuple[int, int]]]:
    """Images and the size of the picture in them."""
    height, width = shape
    smaller = (height, width) if whole.fixed else (height - height // 5, width - width // 7)
    sizes = [(height, width), (height, width), smaller]
    photographs = [load_pictures(size, index + 1, pictures)[-1:] for index, size in enumerate(sizes)]
    normalisation, cases = whole.fused.normalisation, []
    for pixels in [*photographs, np.full((1, height, width, 3), 128, np.uint8)]:
        picture, size = normalise(to_pixels(pixels, normalisation.channels), normalisation), pixels.shape[1:3]
        cases.append((F.pad(picture, (0, width - size[1], 0, height - size[0])), size))
    return cases


def _differences(expected: Detections, found: Detections, side: int, bounds: Bounds) -> dict[str, np.ndarray]:
    """Output -> the largest difference of each detection that is in both."""
    other = partners(expected, found, side, bounds)
    ours = np.flatnonzero(other >= 0)
    theirs = other[ours]
    values = {'boxes': np.abs(expected.boxes[ours] - found.boxes[theirs]).max(1, initial=0) / side,
              'scores': np.abs(expected.scores[ours] - found.scores[theirs])}
    if expected.masks is not None:
        values['masks'] = np.array([
            _mask_difference(found.masks[j], expected.boxes[i], expected.masks[i]) for i, j in zip(
                ours, theirs, strict=True)])
    return values


def _mask_difference(mask: np.ndarray, box: np.ndarray, expected: np.ndarray) -> float:
    """Of a mask and mmdet's, which leaves out, on a CPU, what little is outside of the box."""
    inside = paste(np.ones_like(mask), box, *expected.shape) >= 0.5
    return float(np.abs(paste(mask, box, *expected.shape) - expected / 255).max(where=inside, initial=0))
