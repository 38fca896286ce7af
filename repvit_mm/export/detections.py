"""Detections in an image: masks pasted into it, and the proof that an exported file equals mmdet."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .detectors import WholeDetector
from .files import ExportedFile
from .images import load_images, to_input
from .report import Bounds, Comparison

#: Number of draws of noise.
DRAWS = 2
#: Largest share of the detections that may depend on such noise.
UNSTABLE = 0.25


class Detections(NamedTuple):
    """Detections in an image.

    Attributes:
        boxes: (N, 4): left, top, right, bottom in pixels.
        scores: (N,).
        labels: (N,).
        masks: (N, h, w), values of cells; None without masks.
        area: (4,), the box that the cells of all masks fill; None if each mask fills its own.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None
    area: np.ndarray | None = None


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Paste a mask into its image as mmdet does.

    Args:
        mask: (h, w), the values of a grid of cells that fills the box.
        box: Left, top, right, bottom in pixels of the image.
        height: Of the image.
        width: Of the image.

    Returns:
        The values of the pixels around the box, and their rows and columns.
    """
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    values, place = _do_paste_mask(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], height, width)
    return values[0], place


def detect(file: ExportedFile, image: Tensor, size: Sequence[int]) -> Detections:
    """Run a file.

    Args:
        file: A whole detector.
        image: (1, channels, H, W), normalised.
        size: Height and width before padding.
    """
    outputs = file.run({'image': image.numpy(), 'size': np.array(size, np.float32)})
    there = outputs['scores'] > 0  # all, except with fixed shapes
    area = np.array([0, 0, *image.shape[:1:-1]], np.float32) if file.metadata.get('masks_fill') == 'image' else None
    return _cut(Detections(**{name: values[there] for name, values in outputs.items()}, area=area), size)


def _cut(found: Detections, size: Sequence[int]) -> Detections:
    """Detections whose boxes end at the right and the bottom of the image."""
    return found._replace(boxes=np.minimum(found.boxes, np.tile(np.array(size[::-1], np.float32), 2)))


@torch.no_grad()
def detect_with_mmdet(whole: WholeDetector, image: Tensor, size: Sequence[int]) -> Detections:
    """Run mmdet itself; its masks (N, H, W) are those of the image: probabilities in steps of 1/255, or bool."""
    from mmdet.structures import DetDataSample
    detector, selection = whole.fused.model, whole.selection
    config = detector.roi_head.test_cfg if getattr(detector, 'with_roi_head', False) else {}
    if config and whole.mask_threshold is not None:
        config.mask_thr_binary = -1  # keeps probabilities
    sample = DetDataSample(metainfo=dict(img_shape=tuple(size), ori_shape=tuple(size), scale_factor=(1., 1.),
                                         batch_input_shape=tuple(image.shape[2:])))
    found = detector.predict(image, [sample])[0].pred_instances
    if config and whole.mask_threshold is not None:
        config.mask_thr_binary = whole.mask_threshold
    # Heads that mmdet does not limit are limited here.
    found = found[found.scores >= selection.score_threshold][:selection.max_detections]
    masks = found.masks.numpy() if whole.mask_threshold is not None else None
    return _cut(Detections(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks), size)


def partners(these: Detections, those: Detections, side: int, bounds: Bounds) -> np.ndarray:
    """Match detections of the same image.

    Args:
        these: N detections.
        those: The others.
        side: Longer side of the image.
        bounds: How far apart they may be.

    Returns:
        (N,), the index of the same detection among ``those``; -1 if there is none.
    """
    if not len(these.boxes) or not len(those.boxes):
        return np.full(len(these.boxes), -1)
    apart = np.abs(these.boxes[:, None] - those.boxes[None]).max(2) / side
    same = ((apart <= bounds.boxes) & (these.labels[:, None] == those.labels[None])
            & (np.abs(these.scores[:, None] - those.scores[None]) <= bounds.scores))
    return np.where(same.any(1), np.where(same, apart, np.inf).argmin(1), -1)


def unmatched(these: Detections, those: Detections, side: int, bounds: Bounds) -> int:
    """Number of detections without a partner, on the side that has more of them."""
    return max(int((partners(*pair, side, bounds) < 0).sum()) for pair in ((these, those), (those, these)))


def prove_detections(file: ExportedFile, whole: WholeDetector, shape: Sequence[int], bounds: Bounds,
                     paths: Sequence[str | Path] = (), half: ExportedFile | None = None) -> list[Comparison]:
    """Compare the detections of a file with mmdet's: in two images that fill the input, one that does not (with fixed
    shapes: does), and one of a single colour, in which a detector mostly finds nothing.

    Where two scores are equal but for rounding, or two boxes overlap by just the threshold, rounding decides. As many
    detections may differ as differ in mmdet when noise of that size is added to the image, or in half precision.

    Args:
        file: To prove.
        whole: The detector that it was exported from.
        shape: Height and width of the image.
        bounds: Largest differences.
        paths: See :func:`repvit_mm.export.load_images`.
        half: PyTorch in half precision, for a file in it.

    Returns:
        One entry for each output, of all images; that of the labels is the share of detections without a partner.

    Raises:
        ExportError: If it finds something else, or mmdet finds nothing that would prove anything.
    """
    differences: dict[str, list[np.ndarray]] = {}
    number, differing, allowed, side = 0, 0, 0, max(shape)
    generator = torch.Generator().manual_seed(0)
    noise = bounds.noise / torch.tensor(whole.fused.normalisation.std)[:, None, None]
    for image, size in _cases(whole, shape, paths):
        expected, found = detect_with_mmdet(whole, image, size), detect(file, image, size)
        others = [detect_with_mmdet(whole, image + noise * torch.randn(image.shape, generator=generator), size)
                  for _ in range(DRAWS)] + ([] if half is None else [detect(half, image, size)])
        number += len(expected.boxes)
        differing += unmatched(expected, found, side, bounds)
        allowed += max(unmatched(expected, other, side, bounds) for other in others)
        for name, values in _differences(expected, found, side, bounds).items():
            differences.setdefault(name, []).append(values)
    if not number:
        raise ExportError(f'{file.path.name} cannot be proven: PyTorch finds no object in these images that scores '
                          f'more than {whole.selection.score_threshold:g}; give --pictures with objects that it knows, '
                          'or a lower --score-threshold')
    if allowed > UNSTABLE * number:
        raise ExportError(f'{file.path.name} cannot be proven: of {number} objects that PyTorch finds in these '
                          f'images, {allowed} depend on rounding; give --pictures with objects that it knows')
    if differing > allowed:
        raise ExportError(f'{file.path.name} differs from PyTorch: {differing} of {number} detections have no partner '
                          f'of the same label, within {bounds.boxes:g} of the image in place and {bounds.scores:g} in '
                          f'score; rounding explains {allowed}. With a model that has learned little, give --pictures '
                          'with objects that it knows')
    results = [Comparison('labels', (number,), differing / number, allowed / number)]
    for name, parts in differences.items():
        values, bound = np.concatenate(parts), getattr(bounds, name)
        results.append(Comparison(name, values.shape, float(values.max(initial=0)), bound))
        if not values.max(initial=0) <= bound:
            raise ExportError(f"{name} differ from PyTorch's by {values.max():.2g}, more than {bound:g}")
    return results


def _cases(whole: WholeDetector, shape: Sequence[int],
           paths: Sequence[str | Path]) -> list[tuple[Tensor, tuple[int, int]]]:
    """Inputs, and the height and width of the image in them."""
    height, width = shape
    smaller = (height, width) if whole.fixed else (height - height // 5, width - width // 7)
    sizes = [(height, width), (height, width), smaller]
    photographs = [load_images(size, index + 1, paths)[-1:] for index, size in enumerate(sizes)]
    cases = []
    for pixels in [*photographs, np.full((1, height, width, 3), 128, np.uint8)]:
        image, size = to_input(pixels, whole.fused.normalisation), pixels.shape[1:3]
        cases.append((F.pad(image, (0, width - size[1], 0, height - size[0])), size))
    return cases


def _differences(expected: Detections, found: Detections, side: int, bounds: Bounds) -> dict[str, np.ndarray]:
    """Output -> the largest difference of each detection in both."""
    other = partners(expected, found, side, bounds)
    ours = np.flatnonzero(other >= 0)
    theirs = other[ours]
    values = {'boxes': np.abs(expected.boxes[ours] - found.boxes[theirs]).max(1, initial=0) / side,
              'scores': np.abs(expected.scores[ours] - found.scores[theirs])}
    if expected.masks is not None:
        values['masks'] = np.array([
            _mask_difference(found.masks[j], expected.boxes[i] if found.area is None else found.area, expected.masks[i])
            for i, j in zip(ours, theirs, strict=True)])
    return values


def _mask_difference(mask: np.ndarray, box: np.ndarray, expected: np.ndarray) -> float:
    """Difference from mmdet's mask: of probabilities in steps of 1/255, or 1 - IoU."""
    values, place = paste(mask, box, *expected.shape)
    if expected.dtype == bool:
        inside = values.numpy() >= 0
        return (inside != expected).sum() / max(1, (inside | expected).sum())
    return float(np.abs(values.numpy() - expected[place] / 255).max(initial=0))
