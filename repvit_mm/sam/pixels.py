"""Zero-shot evaluation of pixels: salient objects on DUTS, anomalies on MVTec AD."""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from ..errors import DatasetError
from ..io.images import read_image
from .instances import masks_of_boxes
from .masks import decode, segment_everything

#: Side of the anomaly maps that are compared, in pixels.
MAP_SIZE = 256


def duts_images(root: Path) -> list[tuple[Path, Path]]:
    """Images of DUTS-TE and their masks, sorted by name.

    Raises:
        DatasetError: If there are no images, or one has no mask.
    """
    images = sorted((root / 'DUTS-TE-Image').glob('*.jpg'))
    pairs = [(path, root / 'DUTS-TE-Mask' / f'{path.stem}.png') for path in images]
    if not pairs or (missing := [mask for _, mask in pairs if not mask.is_file()]):
        raise DatasetError(f'{root}: expected DUTS-TE-Image/NAME.jpg and DUTS-TE-Mask/NAME.png'
                           + (f'; {missing[0].name} is missing' if pairs else ''))
    return pairs


def salient_error(sam: Sam, image: np.ndarray, truth: np.ndarray, points_per_side: int) -> float:
    """Mean absolute error of the mask of "everything" that is nearest to the ground truth, by Dice: an oracle.

    Args:
        sam: The model.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W), from 0 to 1.
        points_per_side: Side of the grid of prompt points.
    """
    masks = [decode(annotation) for annotation in segment_everything(sam, image, points_per_side=points_per_side)]
    masks.append(np.zeros(truth.shape, bool))
    best = max(masks, key=lambda mask: 2 * truth[mask].sum() / max(mask.sum() + truth.sum(), 1e-12))
    return float(np.abs(best - truth).mean())


def evaluate_duts(sam: Sam, pairs: Iterable[tuple[Path, Path]], points_per_side: int) -> dict[str, float]:
    """``MAE``: mean of :func:`salient_error` over images and their masks."""
    errors = []
    for path, mask in pairs:
        image, truth = read_image(path), read_image(mask)[..., 0] / 255
        if image.shape[:2] != truth.shape:
            raise DatasetError(f'{mask} and {path.name} are not of the same size')
        errors.append(salient_error(sam, image, truth, points_per_side))
    return {'MAE': float(np.mean(errors))}


def mvtec_images(root: Path) -> dict[str, list[tuple[Path, Path | None]]]:
    """Test images of MVTec AD: class -> images and their masks, None for images without anomalies.

    Raises:
        DatasetError: If there are no images, or a mask is missing.
    """
    classes: dict[str, list[tuple[Path, Path | None]]] = {}
    for path in sorted(root.glob('*/test/*/*.png')):
        kind, folder = path.parent.name, path.parents[2]
        mask = None if kind == 'good' else folder / 'ground_truth' / kind / f'{path.stem}_mask.png'
        if mask is not None and not mask.is_file():
            raise DatasetError(f'the mask {mask} is missing')
        classes.setdefault(folder.name, []).append((path, mask))
    if not classes:
        raise DatasetError(f'{root} has no CLASS/test/KIND/NAME.png; expected MVTec AD')
    return classes


def anomaly_map(sam: Sam, image: np.ndarray, boxes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The score of the best box whose mask covers a pixel, (H, W) float32; 0 without one."""
    result = np.zeros(image.shape[:2], np.float32)
    if boxes:
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        for box, mask in zip(boxes, masks_of_boxes(predictor, [box['bbox'] for box in boxes]), strict=True):
            np.maximum(result, box['score'] * mask.mask, out=result)
    return result


def evaluate_mvtec(sam: Sam, images: Iterable[tuple[Path, Path | None]], boxes: Mapping[str, Sequence[dict]],
                   root: Path) -> float:
    """Largest F1 of the pixels of a class over all thresholds, in percent.

    Args:
        sam: The model.
        images: See :func:`mvtec_images`.
        boxes: Path of an image relative to ``root`` -> a detector's boxes, see :func:`.instances.read_boxes`.
        root: Folder of the data set.
    """
    from sklearn.metrics import precision_recall_curve
    maps, truths = [], []
    for path, mask in images:
        image = read_image(path)
        maps.append(_resized(anomaly_map(sam, image, boxes.get(path.relative_to(root).as_posix(), ()))))
        truths.append(_resized(read_image(mask)[..., 0]) > 127 if mask else np.zeros((MAP_SIZE, MAP_SIZE), bool))
    precision, recall, _ = precision_recall_curve(np.ravel(truths), np.ravel(maps))
    return 100 * float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def _resized(values: np.ndarray) -> np.ndarray:
    return cv2.resize(values, (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_NEAREST)
