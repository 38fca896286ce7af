"""Checks of annotation files in COCO's format, where pycocotools reads them."""
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import IO, Any

from ..errors import DatasetError

#: Beyond this, the coordinate of a polygon is none of a pixel; drawing much larger ones crashes pycocotools.
LARGEST_COORDINATE = 1e5


def check_coco_files() -> None:
    """Let pycocotools check the annotations that it reads, in the whole process: it takes whatever it finds."""
    import pycocotools.coco
    pycocotools.coco.json = SimpleNamespace(load=read_coco)


def read_coco(file: IO[str]) -> Any:
    """Read a file of annotations, or of results, whose entries are not checked.

    Raises:
        DatasetError: If it is not JSON, or its entries do not have what pycocotools and mmdet expect.
    """
    name = getattr(file, 'name', 'the annotations')
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{name} is not valid JSON: {error}') from error
    if not isinstance(content, list):  # of results
        check_annotations(content, name)
    return content


def check_annotations(content: Any, name: str) -> None:
    """Check the parts of an annotation file that are used: images, categories, objects with boxes and masks.

    Whether boxes are finite, and inside of their images, is left to the data set.

    Args:
        content: The file's content; objects without ``iscrowd`` are none.
        name: Its name, for errors.

    Raises:
        DatasetError: Naming the first entry that does not fit.
    """
    if not isinstance(content, Mapping):
        raise DatasetError(f"{name} is not in COCO's annotation format: it holds a {type(content).__name__}")
    sizes: dict[Any, tuple[float, float]] = {}

    def image(entry: Mapping) -> bool:
        sizes[entry['id']] = entry['height'], entry['width']
        return (_is_id(entry['id']) and isinstance(entry['file_name'], str) and _is_number(entry['height'])
                and _is_number(entry['width']) and entry['height'] >= 1 and entry['width'] >= 1)

    def category(entry: Mapping) -> bool:
        return _is_id(entry['id']) and isinstance(entry['name'], str)

    def annotation(entry: dict) -> bool:
        if 'segments_info' in entry or 'caption' in entry:  # of other tasks
            return True
        box, mask = entry['bbox'], entry.get('segmentation')
        return (_is_id(entry['id']) and _is_id(entry['image_id']) and _is_id(entry['category_id'])
                and _is_number(entry['area']) and entry.setdefault('iscrowd', 0) in (0, 1)
                and isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
                and (mask is None or _is_mask(mask, sizes.get(entry['image_id']))))

    _check_all(content, name, 'images', image, 'id, file_name, height and width')
    _check_all(content, name, 'categories', category, 'id and name')
    if 'annotations' in content:  # the images of a test have none
        _check_all(content, name, 'annotations', annotation,
                   'id, image_id, category_id, area, bbox of four numbers, and a segmentation, if any, of polygons or '
                   'of run lengths for the size of the image')


def _check_all(content: Mapping, name: str, kind: str, is_good: Callable[[Any], bool], expected: str) -> None:
    entries = content.get(kind)
    if not isinstance(entries, list):
        raise DatasetError(f"{name}: {kind}: expected a list, as in COCO's format, got "
                           f'{"nothing" if entries is None else type(entries).__name__}')
    for number, entry in enumerate(entries):
        try:
            good = is_good(entry)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
            good = False
        if not good:
            raise DatasetError(f'{name}: {kind}: entry {number} is {str(entry)[:100]}; expected {expected}')


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


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
