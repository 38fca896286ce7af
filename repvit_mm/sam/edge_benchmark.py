"""The boundary benchmark of BSDS500: ODS, OIS and AP (Arbelaez et al., PAMI 2011)."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import coo_array, diags_array, hstack
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from ..errors import DatasetError
from ..io.files import check_regular

#: Largest distance of matching pixels, as a fraction of the image's diagonal.
MAX_DISTANCE = 0.0075
#: Cost of an unmatched pixel, in units of the largest distance: always more than a match.
_OUTLIER = 100.


class Counts(NamedTuple):
    """Counts of an image at each threshold, (thresholds,) each.

    Attributes:
        found: Matched boundary pixels of all annotators.
        drawn: Boundary pixels of all annotators.
        correct: Predicted pixels that match those of at least one annotator.
        predicted: Predicted pixels.
    """

    found: np.ndarray
    drawn: np.ndarray
    correct: np.ndarray
    predicted: np.ndarray


class EdgeScores(NamedTuple):
    """Scores of a data set.

    Attributes:
        ods: F-measure at the best threshold for the whole data set.
        threshold: That threshold.
        ois: F-measure at the best threshold of each image.
        ap: Average precision.
    """

    ods: float
    threshold: float
    ois: float
    ap: float


def match_edges(first: np.ndarray, second: np.ndarray, max_distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Match the pixels of two edge maps one to one: as many pairs as possible, as close as possible.

    Args:
        first: (H, W) bool.
        second: (H, W) bool.
        max_distance: Largest distance of a pair, in pixels.

    Returns:
        The matched pixels of each map, (H, W) bool.
    """
    matched = np.zeros_like(first), np.zeros_like(second)
    points = np.argwhere(first), np.argwhere(second)
    if not len(points[0]) or not len(points[1]):
        return matched
    near = cKDTree(points[0]).sparse_distance_matrix(cKDTree(points[1]), max_distance, output_type='coo_matrix')
    if near.nnz:
        rows, columns = _assign(near.row, near.col, near.data, max_distance)
        matched[0][tuple(points[0][rows].T)] = True
        matched[1][tuple(points[1][columns].T)] = True
    return matched


def _assign(rows: np.ndarray, columns: np.ndarray, distances: np.ndarray,
            max_distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The best assignment among the possible pairs."""
    used_rows, rows = np.unique(rows, return_inverse=True)
    used_columns, columns = np.unique(columns, return_inverse=True)
    # In a sparse matrix, a distance of zero would mean that the pair is impossible.
    near = coo_array((distances + 1e-3 * max_distance, (rows, columns)), (len(used_rows), len(used_columns)))
    # An unmatched pixel is assigned to a dummy of its own, at a cost.
    dummies = diags_array(np.full(len(used_rows), _OUTLIER * max_distance))
    left, right = min_weight_full_bipartite_matching(hstack([near, dummies]).tocsr())
    real = right < len(used_columns)
    return used_rows[left[real]], used_columns[right[real]]


def count_matches(strength: np.ndarray, annotations: Sequence[np.ndarray], thresholds: np.ndarray) -> Counts:
    """Compare an edge map with the boundaries of several annotators, at every threshold.

    Args:
        strength: (H, W), from 0 to 1.
        annotations: (H, W) bool of each annotator.
        thresholds: Ascending. Pixels of at least this strength, thinned to lines, are the prediction.
    """
    from skimage.morphology import thin
    radius = MAX_DISTANCE * np.hypot(*strength.shape)
    counts = Counts(*np.zeros((4, len(thresholds))))
    for number, threshold in enumerate(thresholds):
        predicted = thin(strength >= max(threshold, np.finfo(strength.dtype).eps))
        correct = np.zeros_like(predicted)
        for annotation in annotations:
            ours, theirs = match_edges(predicted, annotation, radius)
            correct |= ours
            counts.found[number] += theirs.sum()
            counts.drawn[number] += annotation.sum()
        counts.correct[number], counts.predicted[number] = correct.sum(), predicted.sum()
    return counts


def count_file(map_path: str | Path, annotation: str | Path, thresholds: np.ndarray) -> Counts:
    """Compare an edge map in a file with an annotation of BSDS500; see :func:`count_matches`.

    Raises:
        DatasetError: If the annotation is missing, or has another size.
    """
    with Image.open(map_path) as image:
        strength = np.asarray(image, dtype=np.float32) / 255
    boundaries = load_boundaries(annotation)
    if boundaries[0].shape != strength.shape:
        raise DatasetError(f'{annotation} is for an image of {boundaries[0].shape[1]} x {boundaries[0].shape[0]} '
                           f'pixels, and the image has {strength.shape[1]} x {strength.shape[0]}')
    return count_matches(strength, boundaries, thresholds)


def score(counts: Sequence[Counts], thresholds: np.ndarray) -> EdgeScores:
    """Compute the scores of a data set from the counts of its images."""
    totals = Counts(*np.sum(counts, axis=0))
    recall, precision, _ = _measures(totals)
    ods, threshold = _best(recall, precision, thresholds)
    best = [int(np.argmax(_measures(image)[2])) for image in counts]
    own = Counts(*(np.array([sum(image[i][k] for image, k in zip(counts, best, strict=True))])
                   for i in range(4)))
    return EdgeScores(ods, threshold, float(_measures(own)[2][0]), _average_precision(recall, precision))


def _measures(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and F-measure at each threshold."""
    recall = counts.found / np.maximum(counts.drawn, 1e-12)
    precision = counts.correct / np.maximum(counts.predicted, 1e-12)
    return recall, precision, 2 * recall * precision / np.maximum(recall + precision, 1e-12)


def _best(recall: np.ndarray, precision: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """The best F-measure and its threshold, interpolated linearly between the thresholds."""
    steps = np.arange(len(thresholds))
    fine = np.linspace(0, len(thresholds) - 1, 100 * max(1, len(thresholds) - 1) + 1)
    r, p, t = (np.interp(fine, steps, values) for values in (recall, precision, thresholds))
    f = 2 * r * p / np.maximum(r + p, 1e-12)
    return float(f.max()), float(t[f.argmax()])


def _average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the curve of precision over recall, within the range of measured recalls."""
    recall, first = np.unique(recall, return_index=True)
    if len(recall) < 2:
        return 0.
    at = np.linspace(0, 1, 101)
    inside = (at >= recall[0]) & (at <= recall[-1])
    return float(np.interp(at[inside], recall, precision[first]).sum() / 100)


def load_boundaries(path: str | Path) -> list[np.ndarray]:
    """Read the boundaries of each annotator, (H, W) bool, from ``groundTruth/SPLIT/NAME.mat`` of BSDS500.

    Raises:
        DatasetError: If the file is missing, or has another format.
    """
    from scipy.io import loadmat
    path = Path(path)
    if not path.exists():
        raise DatasetError(f'the annotation {path} does not exist; the layout of BSDS500 is images/SPLIT/NAME.jpg and '
                           'groundTruth/SPLIT/NAME.mat')
    try:
        check_regular(path)
        annotations = loadmat(path)['groundTruth'].ravel()
        boundaries = [annotation['Boundaries'][0, 0].astype(bool) for annotation in annotations]
    except Exception as error:  # loadmat raises many kinds
        raise DatasetError(f'{path} is not an annotation of BSDS500, which has groundTruth with Boundaries '
                           f'({type(error).__name__}: {error})') from error
    if not boundaries:
        raise DatasetError(f'{path} is empty: it has no boundaries')
    return boundaries


def bsds_images(root: str | Path, split: str) -> list[tuple[Path, Path]]:
    """Images of BSDS500 and their annotations, sorted by name.

    Args:
        root: ``BSDS500``, or its ``data`` folder.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: If there are no images.
    """
    root = Path(root).expanduser()
    base = root / 'data' if (root / 'data').is_dir() else root
    images = sorted((base / 'images' / split).glob('*.jpg'))
    if not images:
        raise DatasetError(f'there are no images {base / "images" / split}/*.jpg; expected BSDS500 in {root}, with '
                           f'images/{split} and groundTruth/{split}')
    return [(path, base / 'groundTruth' / split / f'{path.stem}.mat') for path in images]
