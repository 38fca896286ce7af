"""What a folder of data holds: pictures, classes, annotations, and what looks wrong."""
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import shortened
from .tree import counted

#: Classes with less than this to learn from are named.
FEW = 10


class Mark(NamedTuple):
    """An annotated object.

    Attributes:
        label: Index of its class.
        box: Left, top, right and bottom edge in pixels.
        mask: Polygons or run lengths, as in COCO's format; None for a box alone.
    """

    label: int
    box: tuple[float, float, float, float]
    mask: Any = None


@dataclass(frozen=True)
class Picture:
    """A picture with its annotation.

    Attributes:
        path: The file.
        size: Width and height as it is loaded; None if it was not looked at or cannot be read.
        marks: Its objects, for detection.
        label: Its class, for classification, or the file of its label image, for segmentation.
    """

    path: Path
    size: tuple[int, int] | None
    marks: Sequence[Mark] = ()
    label: int | Path | None = None


@dataclass
class Part:
    """The pictures of a split.

    Attributes:
        pictures: Its pictures.
        counts: Index of a class -> its objects; for segmentation its pixels, for classification its pictures.
        settings: What the data set in a config needs to read this split.
    """

    pictures: list[Picture]
    counts: Counter
    settings: Mapping[str, Any]


@dataclass
class Found:
    """A data set.

    Attributes:
        kind: Name of its format.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``, as the toolboxes are called.
        root: Its folder.
        classes: Names of the classes, in the order of their indices.
        parts: ``'train'`` and ``'val'`` -> pictures.
        masks: Whether every object has a mask.
        binary: Whether label images hold 0 and 255, in place of 0 and 1.
        broken: Whether there are pictures that cannot be read, which a training has to leave out.
        notes: What a user should know or repair, one line each.
        files: Name -> content of the files that a config needs beside it.
    """

    kind: str
    task: str
    root: Path
    classes: Sequence[str]
    parts: Mapping[str, Part]
    masks: bool = False
    binary: bool = False
    broken: bool = False
    notes: list[str] = field(default_factory=list)
    files: dict[str, str | bytes] = field(default_factory=dict)


def note_classes(classes: Sequence[str], parts: Mapping[str, Part], things: str, notes: list[str]) -> None:
    """Note which classes can hardly be learned, or not be judged.

    Args:
        classes: Their names.
        parts: ``'train'`` and ``'val'`` -> pictures.
        things: What is counted, such as ``'objects'``.
        notes: Changed in place.
    """
    train, val = parts['train'].counts, parts['val'].counts
    if few := sorted((i for i in range(len(classes)) if train[i] < FEW), key=lambda i: train[i]):
        notes.append(f'{len(few)} of {counted(len(classes), "classes")} have fewer than {FEW} {things} to learn from: '
                     f'{shortened(f"{classes[i]} {train[i]}" for i in few)}')
    if unseen := [classes[i] for i in range(len(classes)) if not val[i]]:
        notes.append(f'{len(unseen)} of {counted(len(classes), "classes")} cannot be judged, the validation has no '
                     f'{things} of them: {shortened(unseen)}')
