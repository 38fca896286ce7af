"""Data sets of objects: from content in COCO's format to what was found."""
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError, shortened
from ..toolboxes.annotations import IGNORED, LEARNED, count_objects
from .found import Found, Mark, Part, Picture, note_classes
from .tree import Tree, check_readable, counted, named, sizes_of


class Source(NamedTuple):
    """The annotations of a split.

    Attributes:
        name: Of the file or folder that they are from, for messages.
        content: In COCO's format.
        folder: Folder of the pictures.
        ann_file: Path of the content's file, for the data set of a config.
    """

    name: str
    content: dict[str, Any]
    folder: Path
    ann_file: str


def find_objects(kind: str, tree: Tree, sources: Mapping[str, Source], notes: list[str]) -> Found:
    """Put together a data set of objects.

    Args:
        kind: Name of the format.
        tree: The files.
        sources: ``'train'`` and ``'val'`` -> annotations, which were checked.
        notes: What is known already.

    Raises:
        DatasetError: If pictures are missing, nothing can be learned, or the splits have different classes.
    """
    names = _common_classes(sources)
    used = {name for source in sources.values() for name in _used(source.content)}
    if not used:
        raise DatasetError(f'{" and ".join(source.name for source in sources.values())} have no objects')
    classes = [name for name in names if name in used]
    if len(classes) < len(names):
        notes.append(f'{len(names) - len(classes)} of {len(names)} classes have no objects and are left out: '
                     f'{shortened(name for name in names if name not in used)}')
    masks = [annotation.get('segmentation') for source in sources.values()
             for annotation in source.content['annotations'] if not annotation['iscrowd']]
    if any(masks) and not all(masks):
        notes.append(f'{sum(not mask for mask in masks)} of {len(masks)} objects have no mask, so that only boxes are '
                     'learned')
    parts = {split: _part(tree, source, classes, notes) for split, source in sources.items()}
    if not parts['train'].counts:
        raise DatasetError(f'{sources["train"].name} has no objects to learn from')
    note_classes(classes, parts, 'objects', notes)
    _note_pictures(tree, parts, notes)
    return Found(kind, 'detection', tree.root, classes, parts, bool(masks) and all(masks), notes=notes)


def _common_classes(sources: Mapping[str, Source]) -> list[str]:
    lists = {}
    for source in sources.values():
        names = [category['name'] for category in source.content['categories']]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DatasetError(f'{source.name} has several categories named {repeated[0]}; give each one its own name')
        lists[source.name] = names
    (first, names), *others = lists.items()
    for other, their in others:
        if their != names:
            odd = sorted(set(names) ^ set(their))
            how = f'only one of them has {shortened(odd)}' if odd else 'they have them in another order'
            raise DatasetError(f'{first} and {other} have different categories: {how}; mmdet needs the same list')
    return names


def _used(content: Mapping[str, Any]) -> set[str]:
    ids = {annotation['category_id'] for annotation in content['annotations']}
    return {category['name'] for category in content['categories'] if category['id'] in ids}


def _part(tree: Tree, source: Source, classes: Sequence[str], notes: list[str]) -> Part:
    content = source.content
    paths = {image['id']: source.folder / image['file_name'] for image in content['images']}
    if missing := set(paths.values()).difference(tree.files):
        raise DatasetError(f'{named(missing)} of {counted(len(paths), "pictures")} of {source.name} are missing; add '
                           'them, or take them out of the annotations')
    labels = {category['id']: classes.index(category['name']) for category in content['categories']
              if category['name'] in classes}
    marks = defaultdict(list)
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        if annotation['category_id'] in labels and not annotation['iscrowd'] and math.isfinite(x + y + width + height):
            marks[annotation['image_id']].append(Mark(
                labels[annotation['category_id']], (x, y, x + width, y + height), annotation.get('segmentation')))
    for reason, number in count_objects(content, set(labels)).items():
        if reason not in (LEARNED, IGNORED):
            notes.append(f'{source.name}: {number} of {counted(len(content["annotations"]), "objects")} {reason}')
    sizes = sizes_of(list(paths.values()))
    check_readable(sizes)
    wrong = {paths[image['id']] for image in content['images']
             if sizes.get(paths[image['id']], (image['width'], image['height'])) != (image['width'], image['height'])}
    if wrong:
        notes.append(f'{source.name} has another size for {named(wrong)} of {counted(len(sizes), "pictures")} than '
                     'the picture itself')
    pictures = [Picture(path, sizes.get(path), marks[number]) for number, path in paths.items()]
    counts = Counter(mark.label for picture in pictures for mark in picture.marks)
    prefix = tree.relative(source.folder)
    return Part(pictures, counts, dict(ann_file=source.ann_file, data_prefix=dict(img=prefix and f'{prefix}/')))


def _note_pictures(tree: Tree, parts: Mapping[str, Part], notes: list[str]) -> None:
    paths = {split: {picture.path for picture in part.pictures} for split, part in parts.items()}
    for split, part in parts.items():
        if empty := [picture.path for picture in part.pictures if not picture.marks]:
            notes.append(f'{named(empty)} of {counted(len(part.pictures), "pictures")} of {split} have no objects')
    both = paths['train'] & paths['val']
    if both == paths['val']:
        raise DatasetError(f'all {counted(len(both), "pictures")} for validation are also for training, first '
                           f'{min(both)}: are those for validation missing?')
    if both:
        notes.append(f'{named(both)} of the pictures are in training and in validation, whose figures will flatter')
    if left := set(tree.pictures) - paths['train'] - paths['val']:
        notes.append(f'{named(left)} of {counted(len(tree.pictures), "pictures")} have no annotations and are not used')
