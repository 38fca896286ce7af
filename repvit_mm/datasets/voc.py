"""Annotations of Pascal VOC. torchvision reads the XML; every stack has it."""
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import DatasetError, shortened
from ..io.files import check_regular, read_text
from .coco import split_content
from .found import Found
from .tree import Tree, named

KIND = 'Pascal VOC'
#: Lists of pictures for training and for validation, in the order in which they are looked for.
LISTS = (('train', 'val'), ('trainval', 'test'), ('train', 'test'))


def find(tree: Tree) -> list[Path]:
    """The XML files of annotations, by their first tag."""
    return [path for path in tree.with_suffix('.xml') if path.is_file() and b'<annotation' in _start(path)]


def _start(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(1000)


def read(tree: Tree, files: list[Path]) -> Found:
    """Read annotations of Pascal VOC.

    The splits are those of ``ImageSets/Main``, or those in the names of folders. A box covers its last pixel, and the
    first pixel of a picture is 1, as the format defines; difficult objects are crowds, which nothing is learned from.

    Raises:
        DatasetError: If a file is damaged, or has no picture, or several data sets are in the folder.
    """
    if len(roots := {path.parent.parent for path in files if path.parent.name == 'Annotations'}) > 1:
        raise DatasetError(f'{tree.root} has several data sets: {shortened(map(str, sorted(roots)))}; give one of them')
    pictures, without = {}, []
    for path in files:
        picture = _picture(tree, path)
        if picture is None:
            without.append(path)
        else:
            pictures[path] = picture
    if not pictures:
        raise DatasetError(f'none of the {len(files)} annotations has a picture of its name, first {files[0]}')
    notes = [f'{named(without)} of {len(files)} annotations have no picture'] if without else []
    images, annotations, labels = {}, [], {}
    for number, (path, picture) in enumerate(pictures.items(), 1):
        entry = _parse(path)
        size = _size(entry, path)
        images[path] = dict(id=number, file_name=tree.relative(picture), width=size[0], height=size[1])
        for item in entry['object']:
            name, box, difficult = _object(item, path)
            label = labels.setdefault(name, len(labels) + 1)
            annotations.append(dict(id=len(annotations) + 1, image_id=number, category_id=label, bbox=box,
                                    area=box[2] * box[3], iscrowd=difficult))
    order = {label: i for i, (_, label) in enumerate(sorted(labels.items()), 1)}  # classes by name
    for annotation in annotations:
        annotation['category_id'] = order[annotation['category_id']]
    content = dict(annotations=annotations, categories=[dict(id=i, name=name)
                                                        for i, name in enumerate(sorted(labels), 1)])
    return split_content(KIND, tree, _splits(tree, images), content, str(tree.root), tree.root, notes)


def _picture(tree: Tree, path: Path) -> Path | None:
    """The picture with the name of an XML file: in ``JPEGImages`` or ``images`` beside its folder, or in its own."""
    for folder in (path.parent.parent / 'JPEGImages', path.parent.parent / 'images', path.parent):
        if picture := tree.folders.get(folder, {}).get(path.stem):
            return picture
    return None


def _parse(path: Path) -> dict[str, Any]:
    from torchvision.datasets import VOCDetection
    try:
        check_regular(path)
        content = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())
        return {'object': [], **content['annotation']}
    except (ElementTree.ParseError, OSError, RecursionError, KeyError, TypeError) as error:
        raise DatasetError(f'{path} cannot be read as an annotation of Pascal VOC: {error}') from error


def _size(entry: Mapping[str, Any], path: Path) -> tuple[int, int]:
    try:
        return tuple(int(float(entry['size'][key])) for key in ('width', 'height'))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f'{path}: expected a size with width and height') from error


def _object(item: Any, path: Path) -> tuple[str, list[float], int]:
    """Name, box (left, top, width, height), and whether it is difficult."""
    try:
        left, top, right, bottom = (float(item['bndbox'][key]) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        name, difficult = item['name'], int(item.get('difficult') or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f'{path}: expected objects with a name and a bndbox of xmin, ymin, xmax and ymax, got '
                           f'{str(item)[:100]}') from error
    if not (isinstance(name, str) and all(map(math.isfinite, (left, top, right, bottom)))):
        raise DatasetError(f'{path}: an object has the name {name!r} and the box {left, top, right, bottom}')
    left, top = max(left - 1, 0.), max(top - 1, 0.)  # the first pixel is 1; many programs write 0
    return name, [left, top, right - left, bottom - top], int(bool(difficult))


def _splits(tree: Tree, images: Mapping[Path, dict]) -> dict[str | None, list[dict]]:
    lists = {path.stem: path for path in tree.with_suffix('.txt') if path.parent.name == 'Main'}
    parts: dict[str | None, list[dict]] = {}
    for train, val in LISTS:
        if train in lists and val in lists:
            by_stem = {path.stem: image for path, image in images.items()}
            for split, name in (('train', train), ('val', val)):
                stems = [line.split()[0] for line in read_text(lists[name]).splitlines() if line.strip()]
                if missing := [stem for stem in stems if stem not in by_stem]:
                    raise DatasetError(f'{lists[name]} lists {shortened(missing, 3)}, which has no annotation with a '
                                       'picture')
                parts[split] = [by_stem[stem] for stem in stems]
            return parts
    for path, image in images.items():
        parts.setdefault(tree.split_of(path.parent), []).append(image)
    return parts
