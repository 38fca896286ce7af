"""Count the objects of a training set that are not learned from; mmdet drops them silently."""
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import master_only
from mmengine.logging import print_log

from ..errors import DatasetError
from ..io.files import read_json

LEARNED = 'can be learned from'
_FOREIGN = 'are of an image that the file does not list'
_INFINITE = 'have a box with infinite values or NaN'
_OUTSIDE = 'have a box outside of their image'
_EMPTY = 'have no area, or a box of less than a pixel'
_NO_POLYGONS = 'have no polygons, and LoadAnnotations with poly2mask=False takes no other masks: leave that setting out'
IGNORED = 'are crowds (iscrowd) or are to be ignored'


@master_only
def check_objects(datasets: Sequence[Any]) -> None:
    """Count the objects that are learned from, and log the others, with one line for each reason.

    The files are read once more, by one process of a distributed run: on COCO's training set this takes seconds.

    Args:
        datasets: The data sets of a training; those in other formats than COCO are not checked.

    Raises:
        DatasetError: If nothing can be learned from any of them.
    """
    files = [(dataset.ann_file, _read(dataset), set(dataset.cat_ids), _takes_polygons_only(dataset))
             for dataset in datasets if _is_coco(dataset)]
    if len(files) < len(datasets) or any(content is None for _, content, _, _ in files):
        return
    learned, complaints = 0, []
    for path, content, categories, polygons_only in files:
        counts = count_objects(content, categories, polygons_only)
        learned += counts.pop(LEARNED, 0)
        lines = [f'{path}: {number} of {len(content["annotations"])} objects {reason}'
                 for reason, number in counts.items()]
        for line in lines:
            print_log(line, 'current', logging.WARNING)
        complaints += lines or [f'{path}: there are no objects of the {len(categories)} classes']
    if not learned:
        raise DatasetError(f'nothing can be learned from the training set: {"; ".join(complaints)}')


def _is_coco(dataset: Any) -> bool:
    return (hasattr(dataset, 'cat_img_map') and not getattr(dataset, 'backend_args', None)
            and '://' not in str(dataset.ann_file))


def _takes_polygons_only(dataset: Any) -> bool:
    """Whether masks are kept as polygons, as for RTMDet-Ins; mmdet then ignores objects with other masks."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    return any(getattr(step, 'with_mask', False) and not getattr(step, 'poly2mask', True) for step in steps)


def _read(dataset: Any) -> Mapping[str, Any] | None:
    content = read_json(dataset.ann_file)
    panoptic = any('segments_info' in annotation for annotation in content.get('annotations', [])[:1])
    if panoptic or 'annotations' not in content:
        return None
    from .coco import CheckedCOCO
    return CheckedCOCO.read(dataset.ann_file).content


def count_objects(content: Mapping[str, Any], categories: set, polygons_only: bool = False) -> Counter:
    """The number of objects for each reason why they are not learned from, and of those that are.

    Args:
        content: Content of a file in COCO format.
        categories: Ids of the categories that are trained; objects of others are not counted.
        polygons_only: Whether objects with masks of another kind are ignored.
    """
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    return Counter(_kind(annotation, sizes.get(annotation['image_id']), polygons_only)
                   for annotation in content['annotations'] if annotation['category_id'] in categories)


def _kind(annotation: Mapping[str, Any], size: tuple[float, float] | None, polygons_only: bool) -> str:
    if size is None:
        return _FOREIGN
    x, y, width, height = annotation['bbox']
    if not math.isfinite(x + y + width + height):
        return _INFINITE
    if min(x + width, size[0]) <= max(x, 0) or min(y + height, size[1]) <= max(y, 0):
        return _OUTSIDE if width > 0 and height > 0 else _EMPTY
    if annotation['area'] <= 0 or width < 1 or height < 1:
        return _EMPTY
    if annotation.get('iscrowd') or annotation.get('ignore'):
        return IGNORED
    return _NO_POLYGONS if polygons_only and not isinstance(annotation.get('segmentation'), list) else LEARNED
