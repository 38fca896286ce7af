"""Count the objects of a training set that are not learned from; mmdet drops them silently."""
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import master_only
from mmengine.logging import print_log

from ..errors import DatasetError
from ..io.coco import LEARNED, count_objects
from ..io.files import read_json


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
