"""Labels of YOLO: a text file for each image."""
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import DatasetError, shortened
from ..io.files import read_text
from .objects import Item, Part, Record, convert, make_item
from .tree import NAME_FILES, Tree, named

KIND = 'YOLO labels'
#: Values in a line of a box, and the fewest in a line of a polygon: the class, then coordinates.
BOX, POLYGON = 5, 7
#: Largest coordinate; those a little beyond the image are clipped.
LARGEST = 1.5


def find(tree: Tree) -> dict[Path, Path]:
    """Image -> its text file, by place and name."""
    texts = {path.with_suffix('.txt'): path for path in tree.with_suffix('.txt') if path.name not in NAME_FILES}
    places = [(image, path) for image in tree.images for path in reversed(_label_paths(tree, image))]
    return {image: texts[path] for image, path in places if path in texts}


def read(tree: Tree, files: Mapping[Path, Path], notes: list[str]) -> dict[str, Part]:
    """Read labels of YOLO, boxes or polygons.

    Names of classes and splits are those of ``data.yaml``, or else of ``classes.txt`` and of folders. An image without
    labels in a folder that has some is background.

    Raises:
        DatasetError: If the class names are not known or a line is malformed.
    """
    settings, file = _settings(tree)
    names = settings.get('names') or tree.class_names()
    if isinstance(names, Mapping) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not names or not isinstance(names, list):
        raise DatasetError(f'{file}: expected the names of the classes, as names: [first, second], got {names}')
    classes, known = list(map(str, names)), set(files.values())
    if lone := [path for path in tree.with_suffix('.txt') if 'labels' in path.parts and path not in known
                and path.name not in NAME_FILES]:
        notes.append(f'{named(lone)} of {len(lone) + len(known)} label files have no image')
    folders = {image.parent for image in files}
    images = [image for image in tree.images if image.parent in folders]
    sizes, splits = tree.look(images), _splits(tree, settings, file, images)
    most = BOX if 'kpt_shape' in settings else None
    return convert(tree, [Record(
        tree.relative(image),
        [*_objects(files[image], sizes.get(image, (1, 1)), classes, most)] if image in files else [],
        splits.get(image, 'unused' if splits else None)) for image in images], notes, classes)


def _label_paths(tree: Tree, image: Path) -> list[Path]:
    """Where the labels of an image can be: in ``labels`` instead of ``images``, or beside it."""
    before, images, after = f'/{tree.relative(image)}'.rpartition('/images/')
    other = [tree.root / f'{before}/labels/{after}'.lstrip('/')] * bool(images)
    return [path.with_suffix('.txt') for path in (*other, image)]


def _settings(tree: Tree) -> tuple[Mapping[str, Any], Path]:
    for path in tree.with_suffix('.yaml', '.yml'):
        try:
            content = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise DatasetError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
        if isinstance(content, Mapping) and 'names' in content:
            return content, path
    return {}, tree.root / 'data.yaml'


def _objects(path: Path, size: tuple[int, int], classes: Sequence[str], most: int | None) -> Iterator[Item]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.replace(',', ' ').split()[:most]
        if not words:
            continue
        try:
            label, *values = map(float, words)
            outline = len(words) >= POLYGON
            values = values[:len(values) // 2 * 2] if outline else values[:4]  # the rest is a confidence
            if len(values) < 4 or not all(abs(value) < float('inf') for value in (label, *values)):
                raise ValueError
        except ValueError as error:
            raise DatasetError(f'{path}, line {number}: expected a class and four numbers of a box, or at least three '
                               f'points of a polygon, got {line[:100]!r}') from error
        if label not in range(len(classes)):
            raise DatasetError(f'{path}, line {number}: the class {words[0]} is not one of the {len(classes)}, which '
                               f'are counted from 0: {shortened(classes)}')
        if max(values) > LARGEST:
            raise DatasetError(f'{path}, line {number}: {max(values):g} is not a fraction of the image size; YOLO '
                               'labels hold fractions from 0 to 1, not pixels')
        if not outline:
            x, y, width, height = values
            values = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        edges = [min(max(value, 0.), 1.) * size[i % 2] for i, value in enumerate(values)]
        yield make_item(classes[int(label)], [*zip(edges[::2], edges[1::2], strict=True)], outline)


def _splits(tree: Tree, settings: Mapping[str, Any], file: Path, images: Sequence[Path]) -> dict[Path, str]:
    """Image -> split, from the settings; empty without any."""
    splits = {}
    for split in ('train', 'val', 'test') if settings.get('train') else ():
        places = settings.get(split) or []
        for place in places if isinstance(places, list) else [places]:
            for image in _members(tree, settings, file, str(place), images):
                splits.setdefault(image, split)
    if settings.get('train') and 'train' not in splits.values():
        raise DatasetError(f'{file} says train: {settings["train"]}, where there are no images with labels')
    return splits


def _members(tree: Tree, settings: Mapping[str, Any], file: Path, place: str, images: Iterable[Path]) -> list[Path]:
    """The images of a folder, or of a list of images, that a split names."""
    inside = place.removeprefix('../')  # as Roboflow writes it
    starts = [file.parent / str(settings.get('path') or ''), file.parent, tree.root]
    found = next((path for start in starts for path in (start / place, start / inside) if path.exists()), None)
    if found is None:
        return []
    if found.is_file():
        listed = {os.path.realpath(found.parent / line.strip()) for line in read_text(found).splitlines()}
        return [path for path in images if os.path.realpath(path) in listed]
    real = os.path.realpath(found) + os.sep
    return [path for path in images if os.path.realpath(path).startswith(real)]
