"""Data sets of objects: annotations of any format become COCO's, and are checked against their images."""
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError, shortened
from ..io.coco import check_coco
from ..io.coco_images import match_images, match_names
from ..toolboxes.annotations import IGNORED, LEARNED, count_objects
from .dataset import Dataset, Object, Sample, Split
from .tree import Tree, choose_splits, counted, named


class Item(NamedTuple):
    """An object: class name, box (left, top, width, height), polygons or None, and whether it is a crowd."""

    name: str
    box: tuple[float, float, float, float]
    mask: list[list[float]] | None = None
    crowd: bool = False


class Record(NamedTuple):
    """An image with its objects, of a format other than COCO's.

    Attributes:
        image: Its path below the folder of the data, or its name as a tool wrote it.
        objects: Items of :func:`box_object` or :func:`polygon_object`; None for other shapes.
        split: Its split; None for that of its folder.
        size: Width and height as annotated; None for those of the file.
    """

    image: str
    objects: Sequence[Item | None]
    split: str | None = None
    size: tuple[int, int] | None = None


class Part(NamedTuple):
    """The annotations of a split.

    Attributes:
        name: Their file or folder, for messages.
        content: In COCO format.
        folder: Folder of the images.
        ann_file: Path of the content for a config; None to write a copy.
    """

    name: str
    content: dict[str, Any]
    folder: Path
    ann_file: str | None = None


def box_object(name: str, left: float, top: float, right: float, bottom: float, crowd: bool = False) -> Item:
    """An object from the edges of its box."""
    return Item(name, (left, top, right - left, bottom - top), None, crowd)


def polygon_object(name: str, points: Sequence[Sequence[float]]) -> Item:
    """An object from its outline, (points, 2)."""
    xs, ys = zip(*points, strict=True)
    return box_object(name, min(xs), min(ys), max(xs), max(ys))._replace(
        mask=[[value for point in points for value in point]])


def convert(tree: Tree, records: Iterable[Record], notes: list[str], classes: Sequence[str] = ()) -> dict[str, Part]:
    """Convert records to COCO format, and split them if need be.

    Args:
        tree: The files.
        records: At least one.
        notes: Gets lines for the user.
        classes: Class names in order; by default those of the objects, sorted.

    Raises:
        DatasetError: If images are missing or do not fit their annotations.
    """
    records, name = list(records), str(tree.root)
    if others := sum(item is None for record in records for item in record.objects):
        notes.append(f'{counted(others, "shapes")} are no boxes or polygons and are not used')
        records = [record._replace(objects=[item for item in record.objects if item]) for record in records]
    classes = list(classes) or sorted({item.name for record in records for item in record.objects})
    images = [dict(id=number, file_name=record.image, **dict(zip(('width', 'height'), record.size or (), strict=False)))
              for number, record in enumerate(records, 1)]
    notes += match_names(images, name, tree.root)
    paths = [tree.root / image['file_name'] for image in images]
    check_present(tree, paths, name)
    sizes, known = tree.look(paths), set()
    for image, path in zip(images, paths, strict=True):
        if path in known:
            raise DatasetError(f'{name}: {path} is annotated twice; is another image of that name missing?')
        known.add(path)
        image.setdefault('width', sizes[path][0])
        image.setdefault('height', sizes[path][1])
    objects = [(number, item) for number, record in enumerate(records, 1) for item in record.objects]
    annotations = [dict(id=i, image_id=number, category_id=classes.index(item.name), bbox=list(item.box),
                        area=item.box[2] * item.box[3], iscrowd=int(item.crowd),
                        **(dict(segmentation=item.mask) if item.mask else {}))
                   for i, (number, item) in enumerate(objects, 1)]
    content = dict(images=images, annotations=annotations,
                   categories=[dict(id=i, name=label) for i, label in enumerate(classes)])
    notes += check_coco(content, name) + match_images(content, name, tree.root)
    splits = {number: record.split or tree.split_of(path.parent)
              for number, (record, path) in enumerate(zip(records, paths, strict=True), 1)}
    return split_part(Part(name, content, tree.root), splits, notes)


def check_present(tree: Tree, paths: Iterable[Path], name: str) -> None:
    """Check that images exist.

    Raises:
        DatasetError: Naming the first one that is missing.
    """
    paths = set(paths)
    if missing := paths.difference(tree.files):
        raise DatasetError(f'{named(missing)} of {counted(len(paths), "images")} of {name} are missing; add them, or '
                           'remove them from the annotations')


def split_part(part: Part, splits: Mapping[Any, str | None], notes: list[str]) -> dict[str, Part]:
    """Split annotations; ``splits`` maps ids of images to splits as far as they are known."""
    by_split, labels = defaultdict(list), defaultdict(set)
    for image in part.content['images']:
        by_split[splits.get(image['id'])].append(image)
    for annotation in part.content['annotations']:
        labels[annotation['image_id']].add(annotation['category_id'])
    parts = {}
    for split, images in choose_splits(by_split, lambda image: labels[image['id']], notes).items():
        ids = {image['id'] for image in images}
        parts[split] = Part(f'{part.name} ({split})', {**part.content, 'images': images, 'annotations': [
            annotation for annotation in part.content['annotations'] if annotation['image_id'] in ids]}, part.folder)
    return parts


def build(kind: str, tree: Tree, parts: Mapping[str, Part], notes: list[str], crowds_as_objects: bool) -> Dataset:
    """Put together a data set of objects.

    Args:
        kind: Name of the format.
        tree: The files.
        parts: ``'train'`` and ``'val'`` -> annotations.
        notes: Gets lines for the user.
        crowds_as_objects: Learn crowds (VOC: difficult objects) as objects.

    Raises:
        DatasetError: If images are missing or damaged, boxes are not in COCO's units, the splits have different
            classes, or nothing can be learned.
    """
    names = _common_classes(parts)
    parts = {split: _checked(tree, part, crowds_as_objects, notes) for split, part in parts.items()}
    used = {name for part in parts.values() for name in _used(part.content)}
    if not used:
        raise DatasetError(f'{" and ".join(part.name for part in parts.values())} have no objects')
    classes = [name for name in names if name in used]
    if len(classes) < len(names):
        notes.append(f'{len(names) - len(classes)} of {len(names)} classes have no objects and are left out: '
                     f'{shortened(name for name in names if name not in used)}')
    masks = [bool(annotation.get('segmentation')) for part in parts.values()
             for annotation in part.content['annotations'] if not annotation['iscrowd']]
    if any(masks) and not all(masks):
        notes.append(f'{masks.count(False)} of {len(masks)} objects have no mask, so only boxes are learned')
    splits = {split: _split(tree, split, part, classes, notes) for split, part in parts.items()}
    if not splits['train'].counts:
        raise DatasetError(f'{parts["train"].name} has no objects to learn from: '
                           f'{shortened(note for note in notes if parts["train"].name in note)}')
    dataset = Dataset(kind, 'detection', tree.root, classes, splits, bool(masks) and all(masks), notes=notes)
    dataset.files.update({f'{split}.json': json.dumps(part.content) for split, part in parts.items()
                          if part.ann_file is None})
    return dataset


def _common_classes(parts: Mapping[str, Part]) -> list[str]:
    (first, names), *others = [(part.name, [category['name'] for category in part.content['categories']])
                               for part in parts.values()]
    for other, their in others:
        if their != names:
            odd = sorted(set(names) ^ set(their))
            how = f'only one of them has {shortened(odd)}' if odd else 'they have them in another order'
            raise DatasetError(f'{first} and {other} have different categories: {how}; expected the same list')
    return names


def _used(content: Mapping[str, Any]) -> set[str]:
    ids = {annotation['category_id'] for annotation in content['annotations']}
    return {category['name'] for category in content['categories'] if category['id'] in ids}


def _checked(tree: Tree, part: Part, crowds_as_objects: bool, notes: list[str]) -> Part:
    """Check that images exist, and count crowds."""
    check_present(tree, [part.folder / image['file_name'] for image in part.content['images']], part.name)
    annotations = part.content['annotations']
    crowds = sum(annotation['iscrowd'] for annotation in annotations)
    if not crowds:
        return part
    note = f'{part.name}: {crowds} of {counted(len(annotations), "objects")} are crowds (iscrowd, or difficult)'
    if not crowds_as_objects:
        notes.append(f'{note} and are not learned; --crowds-as-objects learns them')
        return part
    notes.append(f'{note} and are learned as objects')
    content = {**part.content, 'annotations': [{**annotation, 'iscrowd': 0} for annotation in annotations]}
    return part._replace(content=content, ann_file=None)


def _split(tree: Tree, split: str, part: Part, classes: Sequence[str], notes: list[str]) -> Split:
    content = part.content
    labels = {category['id']: classes.index(category['name']) for category in content['categories']
              if category['name'] in classes}
    objects = defaultdict(list)
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        if annotation['category_id'] in labels and not annotation['iscrowd'] and math.isfinite(x + y + width + height):
            objects[annotation['image_id']].append(Object(
                labels[annotation['category_id']], (x, y, x + width, y + height), annotation.get('segmentation')))
    for reason, number in count_objects(content, set(labels)).items():
        if reason not in (LEARNED, IGNORED):
            notes.append(f'{part.name}: {number} of {counted(len(content["annotations"]), "objects")} {reason}')
    paths = {image['id']: part.folder / image['file_name'] for image in content['images']}
    sizes = tree.look(paths.values())
    samples = [Sample(path, sizes[path], objects[number]) for number, path in paths.items()]
    prefix = tree.relative(part.folder)
    settings = dict(ann_file=part.ann_file or f'{{{{ fileDirname }}}}/{split}.json',
                    data_prefix=dict(img=prefix and f'{prefix}/'))
    if empty := [sample.path for sample in samples if not sample.objects]:
        notes.append(f'{named(empty)} of {counted(len(samples), "images")} of {split} have no objects'
                     + ' and are learned as background' * (split == 'train'))
        settings['filter_cfg'] = dict(filter_empty_gt=False, min_size=1)
    elif any(min(sample.size) < 32 for sample in samples):
        settings['filter_cfg'] = dict(filter_empty_gt=True, min_size=1)
    counts = Counter(item.label for sample in samples for item in sample.objects)
    return Split(samples, counts, settings)
