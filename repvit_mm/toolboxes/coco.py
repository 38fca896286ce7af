"""mmdet reads annotations in COCO's format with our reader."""
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric
from mmengine.dist import master_only
from mmengine.logging import print_log

from ..errors import DatasetError
from ..io.coco import LEARNED, NO_POLYGONS, count_objects, read_coco


class CheckedCOCO(COCO):
    """Annotations that are checked and repaired when they are read, see :func:`repvit_mm.io.coco.read_coco`.

    Attributes:
        folders: Annotation file, as a real path -> folder of its images, for all files of a config.
        names: Annotation file -> names of its categories, in the order of the file, for the files that were read.
        objects: Annotation file -> its objects, see :func:`count_objects`.
    """

    folders: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    objects: dict[str, dict[Any, Counter]] = {}
    _notes: set[str] = set()

    def __init__(self, annotation_file: str | None = None):
        super().__init__()
        if annotation_file is None:
            return
        self.dataset, notes = read_coco(annotation_file, self.folders.get(os.path.realpath(annotation_file)))
        self.objects[annotation_file] = count_objects(self.dataset)
        self.names[annotation_file] = [category['name'] for category in self.dataset['categories']]
        for note in notes:
            if note not in self._notes:  # an evaluator reads the file of its data set again
                self._notes.add(note)
                print_log(note, 'current', logging.WARNING)
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def use_our_reader() -> None:
    """Make mmdet's data set and metric of COCO's format read with :class:`CheckedCOCO`."""
    CocoDataset.COCOAPI = coco_metric.COCO = CheckedCOCO


@master_only
def check_objects(datasets: Sequence[Any]) -> None:
    """Count the objects that are learned from, and log the others, with one line for each reason.

    Args:
        datasets: The data sets of a training; those in other formats than COCO are not checked.

    Raises:
        DatasetError: If nothing can be learned from any of them.
    """
    learned, complaints = 0, []
    for dataset in datasets:
        if (found := CheckedCOCO.objects.get(getattr(dataset, 'ann_file', None))) is None:
            return
        counts = sum((found.get(category, Counter()) for category in dataset.cat_ids), Counter())
        learned += counts.pop(LEARNED, 0) + (0 if _takes_polygons_only(dataset) else counts.pop(NO_POLYGONS, 0))
        total = sum(count.total() for count in found.values())
        lines = [f'{dataset.ann_file}: {number} of {total} objects {kind}' for kind, number in counts.items()]
        for line in lines:
            print_log(line, 'current', logging.WARNING)
        complaints += lines or [f'{dataset.ann_file}: there are no objects of the {len(dataset.cat_ids)} classes']
    if not learned:
        raise DatasetError(f'nothing can be learned from the training set: {"; ".join(complaints)}')


def _takes_polygons_only(dataset: Any) -> bool:
    """Whether masks are kept as polygons, as for RTMDet-Ins; mmdet then ignores objects with other masks."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    return any(getattr(step, 'with_mask', False) and not getattr(step, 'poly2mask', True) for step in steps)
