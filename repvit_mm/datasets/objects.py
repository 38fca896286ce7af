"""Data sets of objects: annotations of any format become COCO's, and are checked against their images."""
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ..errors import DatasetError, collect, shortened
from ..io.coco import CROWD, LEARNED, NO_POLYGONS, check_coco, count_objects
from ..io.coco_images import match_images, match_names
from .dataset import Dataset, Object, Sample, Split
from .tree import Tree, choose_splits, counted, named


class Item(NamedTuple):
    """An object: class name, box (left, top, width, height), polygons or None, and whether it is a crowd."""

    name: str
    box: Sequence[float]
    mask: list[list[float]] | None = None
    crowd: bool = False


class Record(NamedTuple):
    """An image with its objects, of a format other than COCO's.

    Attributes:
        image: Its path below the folder of the data, or its name as a tool wrote it.
        objects: What :func:`make_item` returns; None for shapes that are neither boxes nor polygons.
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


def make_item(name: str, points: Sequence[Sequence[float]], outline: bool = False, crowd: bool = False) -> Item:
    """An object from two opposite corners of its box, or from its outline; (points, 2)."""
    xs, ys = zip(*points, strict=True)
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return Item(name, box, [[value for point in points for value in point]] if outline else None, crowd)


def record_reader(kind: str, records: Callable[[Tree, Path, Any], Iterable[Record]]) -> Callable[..., dict[str, Part]]:
    """The ``read`` of a format.

    Args:
        kind: Its name.
        records: Reads the records of a file, from the tree, its path, and what ``find`` returned for it.

    Returns:
        Reads what ``find`` returned. It raises a DatasetError if a file is malformed; see also :func:`convert`.
    """
    def read(tree: Tree, files: Mapping[Path, Any], notes: list[str]) -> dict[str, Part]:
        found: list[Record] = []
        for path, content in files.items():
            try:
                found += records(tree, path, content)
            except (ElementTree.ParseError, AttributeError, LookupError, TypeError, ValueError, OverflowError,
                    RecursionError) as error:
                reason = f'no {error}' if isinstance(error, KeyError) else error
                raise DatasetError(f'{path} cannot be read as {kind}: {reason}') from error
        return convert(tree, found, notes)
    return read


def convert(tree: Tree, records: Iterable[Record], notes: list[str], classes: Sequence[str] = ()) -> dict[str, Part]:
    """Convert records to COCO format, and split them if need be.

    Args:
        tree: The files.
        records: At least one.
        notes: Gets lines for the user.
        classes: Class names in order; by default those of the objects, sorted.

    Raises:
        DatasetError: If objects are malformed, or an image is annotated twice.
    """
    records, name = list(records), str(tree.root)
    objects = [(number, item) for number, record in enumerate(records, 1) for item in record.objects if item]
    if others := sum(len(record.objects) for record in records) - len(objects):
        notes.append(f'{counted(others, "shapes")} are neither boxes nor polygons and are skipped')
    images = [dict(id=number, file_name=record.image) for number, record in enumerate(records, 1)]
    notes += match_names(images, name, tree.root)
    paths = [tree.root / image['file_name'] for image in images]
    sizes, known = tree.look(paths, name), set()
    for image, record, path in zip(images, records, paths, strict=True):
        if path in known:
            raise DatasetError(f'{name}: {path} is annotated twice; is another image of that name missing?')
        known.add(path)
        image['width'], image['height'] = record.size or sizes.get(path, (1, 1))
    classes = list(classes) or sorted({item.name for _, item in objects})
    annotations = [dict(id=i, image_id=number, category_id=classes.index(item.name), bbox=item.box, iscrowd=item.crowd,
                        segmentation=item.mask or []) for i, (number, item) in enumerate(objects, 1)]
    content = dict(images=images, annotations=annotations,
                   categories=[dict(id=i, name=label) for i, label in enumerate(classes)])
    notes += check_coco(content, name)
    with collect(tree.faults):
        notes += match_images(content, name, tree.root)
    splits = {image['id']: record.split or tree.split_of(path.parent)
              for image, record, path in zip(images, records, paths, strict=True)}
    return split_part(Part(name, content, tree.root), splits, notes)


def split_part(part: Part, splits: Mapping[Any, str | None], notes: list[str]) -> dict[str, Part]:
    """Split annotations; ``splits`` maps ids of images to splits as far as they are known."""
    by_split, annotations = defaultdict(list), defaultdict(list)
    for image in part.content['images']:
        by_split[splits.get(image['id'])].append(image)
    for annotation in part.content['annotations']:
        annotations[annotation['image_id']].append(annotation)
    chosen = choose_splits(by_split, lambda image: [item['category_id'] for item in annotations[image['id']]], notes)
    return {split: Part(f'{part.name} ({split})', {**part.content, 'images': images, 'annotations': [
        annotation for image in images for annotation in annotations[image['id']]]}, part.folder)
        for split, images in chosen.items()}


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
    name = ' and '.join(part.name for part in parts.values())
    names, theirs = ([category['name'] for category in part.content['categories']] for part in parts.values())
    if names != theirs:
        odd = sorted({*names} ^ {*theirs})
        tree.faults.append(f'{name} have different categories: ' + (
            f'only one of them has {shortened(odd)}' if odd else 'they have them in another order')
            + '; expected the same list')
    tree.look((part.folder / image['file_name'] for part in parts.values() for image in part.content['images']), name)
    tree.check()
    parts = {split: _with_crowds(part, crowds_as_objects, notes) for split, part in parts.items()}
    annotations, used = [], set()
    for part in parts.values():
        known, own = _names_of(part), part.content['annotations']
        used |= {known[annotation['category_id']] for annotation in own}
        annotations += own
    if not used:
        raise DatasetError(f'{name} have no objects')
    if unused := [label for label in names if label not in used]:
        notes.append(f'{len(unused)} of {len(names)} classes have no objects and are left out: {shortened(unused)}')
    classes = [label for label in names if label in used]
    masks = [bool(annotation.get('segmentation')) for annotation in annotations if not annotation['iscrowd']]
    if any(masks) and not all(masks):
        notes.append(f'{masks.count(False)} of {len(masks)} objects have no mask, so only boxes are learned')
    splits = {split: _split(tree, split, part, classes, notes) for split, part in parts.items()}
    if not splits['train'].counts:
        raise DatasetError(f'{parts["train"].name} has no objects to learn from: '
                           f'{shortened(note for note in notes if parts["train"].name in note)}')
    return Dataset(kind, 'detection', tree.root, classes, splits, bool(masks) and all(masks), notes=notes, files={
        f'{split}.json': json.dumps(part.content) for split, part in parts.items() if part.ann_file is None})


def _names_of(part: Part) -> dict[Any, str]:
    """Id of a category -> its name."""
    return {category['id']: category['name'] for category in part.content['categories']}


def _with_crowds(part: Part, as_objects: bool, notes: list[str]) -> Part:
    """Count crowds; as objects, they are written into a copy."""
    annotations = part.content['annotations']
    if not (crowds := sum(annotation['iscrowd'] for annotation in annotations)):
        return part
    notes.append(f'{part.name}: {crowds} of {counted(len(annotations), "objects")} are crowds (iscrowd, or difficult) '
                 'and are ' + ('learned as objects' if as_objects else 'not learned; --crowds-as-objects learns them'))
    content = {**part.content, 'annotations': [{**annotation, 'iscrowd': 0} for annotation in annotations]}
    return part._replace(content=content, ann_file=None) if as_objects else part


def _split(tree: Tree, split: str, part: Part, classes: Sequence[str], notes: list[str]) -> Split:
    content, objects = part.content, defaultdict(list)
    labels = {key: classes.index(name) for key, name in _names_of(part).items() if name in classes}
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        if annotation['category_id'] in labels and not annotation['iscrowd'] and math.isfinite(x + y + width + height):
            objects[annotation['image_id']].append(Object(
                labels[annotation['category_id']], (x, y, x + width, y + height), annotation.get('segmentation')))
    found = count_objects(content)
    for reason, number in sum((found[category] for category in labels), Counter()).items():
        if reason not in (LEARNED, CROWD, NO_POLYGONS):
            notes.append(f'{part.name}: {number} of {counted(len(content["annotations"]), "objects")} {reason}')
    paths = {image['id']: part.folder / image['file_name'] for image in content['images']}
    sizes = tree.look(paths.values(), part.name)
    samples = [Sample(path, sizes[path], objects[number]) for number, path in paths.items() if path in sizes]
    prefix = tree.relative(part.folder)
    settings = dict(ann_file=part.ann_file or f'{{{{ fileDirname }}}}/{split}.json',
                    data_prefix=dict(img=prefix and f'{prefix}/'))
    empty = [sample.path for sample in samples if not sample.objects]
    if empty:
        notes.append(f'{named(empty)} of {counted(len(samples), "images")} of {split} have no objects'
                     + ' and are learned as background' * (split == 'train'))
    if empty or any(min(sample.size) < 32 for sample in samples):
        settings['filter_cfg'] = dict(filter_empty_gt=not empty, min_size=1)
    counts = Counter(item.label for sample in samples for item in sample.objects)
    return Split(samples, counts, settings)
