"""Data sets of objects: annotations of any format become COCO's, and are checked against their images."""
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError, shortened
from ..toolboxes.annotations import IGNORED, LEARNED, count_objects
from .dataset import Dataset, Object, Sample, Split
from .tree import Tree, choose_splits, counted, named


class Record(NamedTuple):
    """An image with its objects, of a format other than COCO's.

    Attributes:
        image: The file.
        split: Its split, or None if not known.
        objects: Class name, box (left, top, width, height), mask or None, and whether it is a crowd.
        size: Width and height as annotated; None for those of the file.
    """

    image: Path
    split: str | None
    objects: Sequence[tuple[str, Sequence[float], Any, bool]]
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


def polygon_object(name: str, points: Sequence[Sequence[float]]) -> tuple[str, list[float], list[list[float]], bool]:
    """An object of a :class:`Record` from its outline, (points, 2)."""
    left, top, right, bottom = box_of(points)
    return name, [left, top, right - left, bottom - top], [[value for point in points for value in point]], False


def box_of(points: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def convert(tree: Tree, records: Iterable[Record], notes: list[str], classes: Sequence[str] = ()) -> dict[str, Part]:
    """Convert records, and split them if need be.

    Args:
        tree: The files.
        records: At least one.
        notes: Gets lines for the user.
        classes: Class names in order; by default those of the objects, sorted.
    """
    by_split = defaultdict(list)
    for record in records:
        by_split[record.split].append(record)
    chosen = choose_splits(by_split, lambda record: {name for name, *_ in record.objects}, notes)
    names = list(classes) or sorted({name for records in chosen.values() for record in records
                                     for name, *_ in record.objects})
    return {split: Part(f'{tree.root} ({split})', _content(tree, records, names), tree.root)
            for split, records in chosen.items()}


def _content(tree: Tree, records: Sequence[Record], classes: Sequence[str]) -> dict[str, Any]:
    images, annotations = [], []
    sizes = tree.look(record.image for record in records)
    for number, record in enumerate(records, 1):
        width, height = record.size or sizes[record.image]
        images.append(dict(id=number, file_name=tree.relative(record.image), width=width, height=height))
        for name, box, mask, crowd in record.objects:
            annotations.append(dict(
                id=len(annotations) + 1, image_id=number, category_id=classes.index(name), bbox=list(box),
                area=box[2] * box[3], iscrowd=int(crowd), **(dict(segmentation=mask) if mask else {})))
    return dict(images=images, annotations=annotations,
                categories=[dict(id=i, name=name) for i, name in enumerate(classes)])


def split_part(part: Part, notes: list[str]) -> dict[str, Part]:
    """Hold images of a single file out for validation."""
    labels = defaultdict(set)
    for annotation in part.content['annotations']:
        labels[annotation['image_id']].add(annotation['category_id'])
    chosen = choose_splits({None: part.content['images']}, lambda image: labels[image['id']], notes)
    parts = {}
    for split, images in chosen.items():
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
    names = _common_classes(parts, notes)
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


def _common_classes(parts: Mapping[str, Part], notes: list[str]) -> list[str]:
    lists = {part.name: [category['name'] for category in part.content['categories']] for part in parts.values()}
    for where, names in lists.items():
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DatasetError(f'{where} has several categories named {repeated[0]}; give each one its own name')
    (first, names), *others = lists.items()
    for other, their in others:
        if their != names:
            odd = sorted(set(names) ^ set(their))
            how = f'only one of them has {shortened(odd)}' if odd else 'they have them in another order'
            raise DatasetError(f'{first} and {other} have different categories: {how}; expected the same list')
    alike = defaultdict(list)
    for name in names:
        alike[''.join(name.lower().split())].append(repr(name))
    notes += [f'the classes {" and ".join(same)} differ only in case or spaces: are they one class?'
              for same in alike.values() if len(same) > 1]
    return names


def _used(content: Mapping[str, Any]) -> set[str]:
    ids = {annotation['category_id'] for annotation in content['annotations']}
    return {category['name'] for category in content['categories'] if category['id'] in ids}


def _checked(tree: Tree, part: Part, crowds_as_objects: bool, notes: list[str]) -> Part:
    """Check boxes, crowds and sizes; what is repaired is written as a copy."""
    content, changed = part.content, part.ann_file is None
    paths = {image['id']: part.folder / image['file_name'] for image in content['images']}
    if missing := set(paths.values()).difference(tree.files):
        raise DatasetError(f'{named(missing)} of {counted(len(paths), "images")} of {part.name} are missing; add '
                           'them, or remove them from the annotations')
    if crowds := [annotation for annotation in content['annotations'] if annotation['iscrowd']]:
        crowd = f'{part.name}: {len(crowds)} of {counted(len(content["annotations"]), "objects")} are crowds'
        notes.append(f'{crowd} and are learned as objects' if crowds_as_objects else
                     f'{crowd} (iscrowd, or difficult) and are not learned; --crowds-as-objects learns them')
        if crowds_as_objects:
            content = {**content, 'annotations': [{**annotation, 'iscrowd': 0}
                                                  for annotation in content['annotations']]}
            changed = True
    objects = defaultdict(list)
    for annotation in content['annotations']:
        objects[annotation['image_id']].append(annotation)
    _check_boxes(content, objects, part.name)
    sizes = tree.look(paths.values())
    wrong = [image for image in content['images'] if (image['width'], image['height']) != sizes[paths[image['id']]]]
    for image in wrong:
        width, height = sizes[paths[image['id']]]
        if not all(_fits(annotation, width, height) for annotation in objects[image['id']]):
            raise DatasetError(f'{part.name} says that {paths[image["id"]]} is {image["width"]} x {image["height"]} '
                               f'pixels, and has objects for that size, but the image is {width} x {height}; correct '
                               'the annotations or the image')
    if wrong:
        notes.append(f'{part.name} has another size for {named(paths[image["id"]] for image in wrong)} of '
                     f'{counted(len(paths), "images")} than the image itself, whose size is used, as the objects fit it')
        right = {image['id']: dict(zip(('width', 'height'), sizes[paths[image['id']]], strict=True))
                 for image in wrong}
        content = {**content, 'images': [{**image, **right.get(image['id'], {})} for image in content['images']]}
        changed = True
    return part._replace(content=content, ann_file=None if changed else part.ann_file)


def _fits(annotation: Mapping[str, Any], width: int, height: int) -> bool:
    x, y, w, h = annotation['bbox']
    return x + w <= width + 1 and y + h <= height + 1 and not isinstance(annotation.get('segmentation'), Mapping)


def _check_boxes(content: Mapping[str, Any], objects: Mapping[Any, Sequence[Mapping]], name: str) -> None:
    """Refuse boxes in other units or another order than COCO's."""
    boxes = [(annotation['bbox'], image['width'] + 1, image['height'] + 1)
             for image in content['images'] for annotation in objects[image['id']]]
    if boxes and all(max(box) <= 1 for box, _, _ in boxes):
        raise DatasetError(f'{name}: all boxes are shares of the image, first {boxes[0][0]}; expected pixels')
    beyond = sum(box[0] + box[2] > width or box[1] + box[3] > height for box, width, height in boxes)
    if beyond and all(box[0] < box[2] <= width and box[1] < box[3] <= height for box, width, height in boxes):
        raise DatasetError(f'{name}: {beyond} of {len(boxes)} boxes end beyond their image, and all fit as x1, y1, '
                           'x2, y2; expected x, y, width, height')


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
