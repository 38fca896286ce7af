"""A recognised data set: images, classes, annotations, and notes for the user."""
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Object(NamedTuple):
    """An annotated object.

    Attributes:
        label: Index of its class.
        box: Left, top, right and bottom edge in pixels.
        mask: Polygons or run lengths in COCO format; None for a box alone.
    """

    label: int
    box: tuple[float, float, float, float]
    mask: Any = None


class Sample(NamedTuple):
    """An image with its annotation.

    Attributes:
        path: The file.
        size: Width and height.
        objects: Its objects, for detection.
        label: Its class, for classification, or its label image, for segmentation.
    """

    path: Path
    size: tuple[int, int]
    objects: Sequence[Object] = ()
    label: int | Path | None = None


class Split(NamedTuple):
    """The images for training or validation.

    Attributes:
        samples: Its images.
        counts: Index of a class -> number of objects (detection), pixels (segmentation) or images (classification).
        settings: Settings of the data set in a config.
    """

    samples: list[Sample]
    counts: Counter
    settings: dict[str, Any]


@dataclass
class Dataset:
    """A data set.

    Attributes:
        kind: Name of its format.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``.
        root: Its folder.
        classes: Class names, in the order of their indices.
        splits: ``'train'`` and ``'val'`` -> images.
        masks: Whether every object has a mask.
        read_labels: Reads a label image as class indices, uint8 (H, W).
        notes: Warnings and repairs for the user, one line each.
        files: Name -> content of files to write beside the config.
    """

    kind: str
    task: str
    root: Path
    classes: Sequence[str]
    splits: Mapping[str, Split]
    masks: bool = False
    read_labels: Callable[[Path], np.ndarray] | None = None
    notes: list[str] = field(default_factory=list)
    files: dict[str, str | bytes] = field(default_factory=dict)
