"""The one reader of annotations in COCO's format: data sets, ``init`` and SAM's evaluation share it."""
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DatasetError, shortened
from .coco_images import match_images
from .files import read_json

#: Largest coordinate of a polygon; drawing much larger ones crashes pycocotools.
LARGEST_COORDINATE = 1e5
_TWO_POINTS = 4
NUMBER = (int, float)
ID = (*NUMBER, str)
#: Results of :func:`kind_of` for objects without a fault.
LEARNED = 'can be learned from'
CROWD = 'are crowds (iscrowd) or are to be ignored'
NO_POLYGONS = 'have no polygons, and LoadAnnotations with poly2mask=False takes no other masks: leave that setting out'


def read_coco(path: str | Path, folder: str | Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Read a file of annotations.

    Args:
        path: The file.
        folder: Folder of the images, see :func:`match_images`; their names are not matched if None.

    Returns:
        The checked content, and repairs and warnings, one line each.

    Raises:
        DatasetError: See :func:`check_coco` and :func:`match_images`.
    """
    content = read_json(path)
    notes = check_coco(content, str(path))
    return content, notes + ([] if folder is None else match_images(content, str(path), folder))


def check_coco(content: Any, name: str) -> list[str]:
    """Check the parts of annotations that are used, and repair unambiguous mistakes.

    Missing areas, crowd flags and boxes of polygons are added, polygons of fewer than three points and repeated images
    are dropped. Annotations are numbered from 1 if their ids are not distinct positive integers: COCOeval counts a
    match with id 0 as none. Roboflow's root category is dropped.

    Args:
        content: Content of a file; changed in place.
        name: Its name, for messages.

    Returns:
        Repairs and warnings, one line each.

    Raises:
        DatasetError: If an entry is malformed, ids of images or categories are ambiguous, or a category is not listed.
    """
    if not isinstance(content, Mapping):
        raise DatasetError(f"{name} is not in COCO's annotation format: it holds a {type(content).__name__}")
    sizes: dict[Any, tuple[float, float]] = {}
    degenerate: list[int] = []

    def image(entry: Mapping) -> bool:
        sizes[entry['id']] = entry['height'], entry['width']
        return (isinstance(entry['id'], ID) and isinstance(entry['file_name'], str)
                and all(isinstance(side, NUMBER) and side >= 1 for side in sizes[entry['id']]))

    def category(entry: Mapping) -> bool:
        return isinstance(entry['id'], ID) and isinstance(entry['name'], str)

    def annotation(entry: dict) -> bool:
        mask = entry.get('segmentation')
        if isinstance(mask, list) and mask:
            polygons = [mask] if all(isinstance(value, NUMBER) for value in mask) else mask
            mask = entry['segmentation'] = [polygon for polygon in polygons if len(polygon) > _TWO_POINTS]
            degenerate.append(len(polygons) - len(mask))
        box = entry.get('bbox') or _box_of(mask)
        entry['bbox'], entry['iscrowd'] = box, int(entry.get('iscrowd') or 0)
        if entry.get('area') is None:
            entry['area'] = box[2] * box[3]
        return (isinstance(entry['image_id'], ID) and isinstance(entry['category_id'], ID)
                and isinstance(entry['area'], NUMBER) and entry['iscrowd'] in (0, 1)
                and isinstance(box, list) and len(box) == 4 and all(isinstance(value, NUMBER) for value in box)
                and (mask is None or _is_mask(mask, sizes.get(entry['image_id']))))

    _check_all(content, name, 'images', image, 'id, file_name, height and width')
    _check_all(content, name, 'categories', category, 'id and name')
    if 'annotations' in content:  # the images of a test have none
        _check_all(content, name, 'annotations', annotation,
                   'image_id, category_id, bbox of four numbers, and a segmentation, if any, of polygons or of run '
                   'lengths for the size of the image')
    notes = _check_images(content, name) + _check_categories(content, name)
    if number := sum(degenerate):
        notes.append(f'{name}: {number} polygons have fewer than three points and are left out')
    return notes + _number(content.get('annotations', []), name)


def _check_all(content: Mapping, name: str, kind: str, is_good: Callable[[Any], bool], expected: str) -> None:
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise DatasetError(f"{name}: {kind}: expected a list, as in COCO's format, got "
                           f'{"nothing" if entries is None else type(entries).__name__}')
    for number, entry in enumerate(entries):
        try:
            good = is_good(entry)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError, IndexError):
            good = False
        if not good:
            raise DatasetError(f'{name}: {kind}: entry {number} is {str(entry)[:100]}; expected {expected}')


def _is_mask(mask: Any, size: tuple[float, float] | None) -> bool:
    if isinstance(mask, list):
        return all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                   and min(polygon) >= -LARGEST_COORDINATE and max(polygon) <= LARGEST_COORDINATE
                   and sum(polygon) == sum(polygon) for polygon in mask)  # the sum is for NaN
    counts, (height, width) = mask['counts'], mask['size']
    if size is not None and (height, width) != size:
        return False
    # pycocotools itself checks those that are packed into text.
    return isinstance(counts, str) or (min(counts) >= 0 and sum(counts) == height * width)


def _box_of(polygons: Any) -> list[float]:
    xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _check_images(content: dict[str, Any], name: str) -> list[str]:
    images, first = content['images'], {}
    for image in images:
        other = first.setdefault(image['id'], image)['file_name']
        if other != image['file_name']:
            raise DatasetError(f'{name}: the images {other} and {image["file_name"]} have the same id {image["id"]}; '
                               'give each one its own')
    content['images'] = list(first.values())
    return [f'{name}: {len(images) - len(first)} images are listed twice'] * (len(first) < len(images))


def _check_categories(content: dict[str, Any], name: str) -> list[str]:
    categories, notes = content['categories'], []
    used = Counter(annotation['category_id'] for annotation in content.get('annotations', []))
    root = next((category for category in categories if category['id'] == 0 and not used[0]), None)
    others = [category for category in categories if category is not root]
    if root and others and ({root['name']} == {other.get('supercategory') for other in others}
                            or root['name'] in {other['name'] for other in others}):
        content['categories'] = categories = others
        notes.append(f'{name}: the category {root["name"]} (id 0) has no objects and is the parent of the others, as '
                     'Roboflow writes it; it is skipped')
    for key in ('id', 'name'):
        if repeated := [value for value, number in Counter(item[key] for item in categories).items() if number > 1]:
            raise DatasetError(f'{name}: several categories have the {key} {repeated[0]}; give each one its own')
    known = {category['id']: category['name'] for category in categories}
    if unlisted := {key: number for key, number in used.items() if key not in known}:
        raise DatasetError(f'{name}: {sum(unlisted.values())} of {used.total()} objects are of the categories '
                           f'{shortened(map(str, unlisted))}, which the file does not list; it lists '
                           f'{shortened(f"{key} ({value})" for key, value in known.items())}')
    if odd := [value for value in known.values() if value != value.strip()]:
        notes.append(f'{name}: categories begin or end with a space: {shortened(map(repr, odd))}')
    cases = defaultdict(list)
    for value in known.values():
        cases[value.strip().casefold()].append(value)
    if alike := [values for values in cases.values() if len(values) > 1]:
        notes.append(f'{name}: categories differ by upper and lower case only: {shortened(sum(alike, []))}')
    return notes


def _number(annotations: Sequence[dict[str, Any]], name: str) -> list[str]:
    ids = [annotation.get('id') for annotation in annotations]
    counts = Counter(map(str, ids))
    repeated = [value for value, number in counts.items() if number > 1]
    if repeated or not all(isinstance(value, int) and value > 0 for value in ids):
        for number, annotation in enumerate(annotations, 1):
            annotation['id'] = number
    return [f'{name}: {len(ids) - len(counts)} of {len(ids)} annotations have the id of another one, first '
            f'{repeated[0]}; they are numbered anew'] if repeated else []


def count_objects(content: Mapping[str, Any]) -> dict[Any, Counter[str]]:
    """The objects of each category id of a file in COCO format, counted by :func:`kind_of`."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    counts = defaultdict(Counter)
    for annotation in content.get('annotations', []):
        counts[annotation['category_id']][kind_of(annotation, sizes.get(annotation['image_id']))] += 1
    return counts


def kind_of(annotation: Mapping[str, Any], size: tuple[float, float] | None) -> str:
    """The reason why an object is not used for training, or :data:`LEARNED`.

    Args:
        annotation: The object in COCO format.
        size: Width and height of its image; None if the file does not list it.
    """
    if size is None:
        return 'are of an image that the file does not list'
    x, y, width, height = annotation['bbox']
    if not math.isfinite(x + y + width + height):
        return 'have a box with infinite values or NaN'
    is_outside = min(x + width, size[0]) <= max(x, 0) or min(y + height, size[1]) <= max(y, 0)
    if is_outside and width > 0 and height > 0:
        return 'have a box outside of their image'
    if is_outside or annotation['area'] <= 0 or width < 1 or height < 1:
        return 'have no area, or a box of less than a pixel'
    if annotation.get('iscrowd') or annotation.get('ignore'):
        return CROWD
    return LEARNED if isinstance(annotation.get('segmentation'), list) else NO_POLYGONS
