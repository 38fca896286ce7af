"""Labels of YOLO: a text file for each picture, read by globox, which is optional."""
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ..errors import DatasetError, shortened
from ..io.files import read_text
from ..io.images import image_size
from .coco import split_content
from .found import Found
from .tree import NAME_FILES, Tree, named

KIND = 'YOLO labels'
#: Values in a line of a box, and the fewest in a line of a polygon: its class, then coordinates.
BOX, POLYGON = 5, 7


def find(tree: Tree) -> list[Path]:
    """The text files that have a picture, by their places and names."""
    pictures = {labels for path in tree.pictures for labels in _label_paths(tree, path)}
    return [path for path in tree.with_suffix('.txt') if path in pictures and path.name not in NAME_FILES]


def read(tree: Tree, files: list[Path]) -> Found:
    """Read labels of YOLO, boxes or polygons.

    Names of the classes and splits are those of ``data.yaml``; without, names are in ``classes.txt``, and splits are
    in the names of folders.

    Raises:
        DatasetError: If globox is missing, the names of the classes are not known, or a line is malformed.
    """
    globox = _import_globox()
    settings, settings_file = _settings(tree)
    classes = _classes(tree, settings, settings_file)
    notes: list[str] = []
    found = set(files)
    lone = [path for path in tree.with_suffix('.txt') if 'labels' in path.parts and path not in found
            and path.name not in NAME_FILES]
    if lone:
        notes.append(f'{named(lone)} of {len(lone) + len(files)} label files have no picture')
    images, annotations = {}, []
    folders = {path.parent for path in tree.pictures if found.intersection(_label_paths(tree, path))}
    for number, path in enumerate((path for path in tree.pictures if path.parent in folders), 1):
        labels = next((file for file in _label_paths(tree, path) if file in found), None)
        size = image_size(path)
        if size is None:
            raise DatasetError(f'{path} cannot be read as a picture')
        images[path] = dict(id=number, file_name=tree.relative(path), width=size[0], height=size[1])
        if labels:
            objects = _objects(globox, labels, size, classes, 'kpt_shape' in settings)
            annotations += [dict(item, id=len(annotations) + i, image_id=number) for i, item in enumerate(objects, 1)]
    content = dict(annotations=annotations, categories=[dict(id=i, name=name) for i, name in enumerate(classes)])
    parts = _splits(tree, settings, settings_file, images)
    return split_content(KIND, tree, parts, content, str(tree.root), tree.root, notes)


def _import_globox() -> ModuleType:
    try:
        return import_module('globox')
    except ModuleNotFoundError as error:
        raise DatasetError("YOLO's labels are read by the package globox, which is not installed; run: pip install "
                           'globox') from error


def _label_paths(tree: Tree, picture: Path) -> Iterator[Path]:
    """Where the labels of a picture can be: in ``labels`` in the place of ``images``, or beside it."""
    parts = picture.relative_to(tree.root).parts
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == 'images':
            yield tree.root.joinpath(*parts[:i], 'labels', *parts[i + 1:]).with_suffix('.txt')
            break
    yield picture.with_suffix('.txt')


def _settings(tree: Tree) -> tuple[Mapping[str, Any], Path]:
    for path in tree.with_suffix('.yaml', '.yml'):
        try:
            content = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise DatasetError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
        if isinstance(content, Mapping) and 'names' in content:
            return content, path
    return {}, tree.root / 'data.yaml'


def _classes(tree: Tree, settings: Mapping[str, Any], file: Path) -> list[str]:
    names = settings.get('names') or tree.class_names()
    if isinstance(names, Mapping) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not names:
        raise DatasetError(f'the names of the classes are not known: write them into {file}, as '
                           'names: [first, second]')
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise DatasetError(f'{file}: names must be a list, or numbered from 0, got {str(names)[:100]}')
    return list(map(str, names))


def _objects(globox: ModuleType, path: Path, size: tuple[int, int], classes: Sequence[str],
             keypoints: bool) -> Iterator[dict[str, Any]]:
    """The objects of a label file, in COCO's format without ids."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        values = line.split()[:BOX if keypoints else None]
        if not values:
            continue
        try:
            polygon = len(values) >= POLYGON
            parse = globox.BoundingBox.from_yolo_seg if polygon else globox.BoundingBox.from_yolo_v7
            box = parse(' '.join(values), image_size=size)
            label = int(float(box.label))
            left, top, right, bottom = (min(max(edge, 0.), side) for edge, side in zip(box.ltrb, size * 2, strict=True))
        except (globox.errors.ParsingError, AssertionError, ValueError, OverflowError) as error:
            raise DatasetError(f'{path}, line {number}: expected a class and four numbers of a box, or at least three '
                               f'points of a polygon, got {line[:100]!r}') from error
        if not 0 <= label < len(classes):
            raise DatasetError(f'{path}, line {number}: the class {label} is not one of the {len(classes)}, which are '
                               f'counted from 0: {shortened(classes)}')
        item = dict(category_id=label, bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top), iscrowd=0)
        if polygon:  # globox keeps the box only
            item['segmentation'] = [[min(max(float(value), 0.), 1.) * size[i % 2]
                                      for i, value in enumerate(values[1:])]]
        yield item


def _splits(tree: Tree, settings: Mapping[str, Any], file: Path,
            images: Mapping[Path, dict]) -> dict[str | None, list[dict]]:
    """Split -> entries of its images, as the settings say, or else the names of folders."""
    parts: dict[str | None, list[dict]] = defaultdict(list)
    if not settings.get('train'):
        for path, image in images.items():
            parts[tree.split_of(path.parent)].append(image)
        return parts
    left = dict(images)
    for split in ('train', 'val', 'test'):
        places = settings.get(split) or []
        for place in places if isinstance(places, list) else [places]:
            for path in _members(tree, settings, file, str(place), images):
                if path in left:
                    parts[split].append(left.pop(path))
    if not parts['train']:
        raise DatasetError(f'{file} says train: {settings["train"]}, where there are no pictures with labels')
    parts[None] = list(left.values())
    return parts


def _members(tree: Tree, settings: Mapping[str, Any], file: Path, place: str,
             pictures: Iterable[Path]) -> list[Path]:
    """The pictures of a folder, or of a list of pictures, that a split names."""
    inside = place.removeprefix('../')  # as Roboflow writes it
    starts = [file.parent / str(settings.get('path') or ''), file.parent, tree.root]
    found = next((path for start in starts for path in (start / place, start / inside) if path.exists()), None)
    if found is None:
        return []
    if found.is_file():
        listed = {os.path.realpath(found.parent / line.strip()) for line in read_text(found).splitlines()}
        return [path for path in pictures if os.path.realpath(path) in listed]
    real = os.path.realpath(found) + os.sep
    return [path for path in pictures if os.path.realpath(path).startswith(real)]
