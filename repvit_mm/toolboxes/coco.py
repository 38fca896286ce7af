"""mmdet reads annotations in COCO's format with our reader."""
import logging
import os

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import print_log

from ..io.coco import Coco, read_coco


class CheckedCOCO(COCO):
    """Annotations that are checked and repaired when they are read, see :func:`repvit_mm.io.coco.read_coco`.

    Attributes:
        folders: Annotation file, as a real path -> folder of its images, for all files of a config.
        names: Annotation file -> names of its categories, in the order of the file, for the files that were read.
    """

    folders: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    _notes: set[str] = set()

    def __init__(self, annotation_file: str | None = None):
        super().__init__()
        if annotation_file is None:
            return
        self.dataset, notes = self.read(annotation_file)
        self.names[annotation_file] = [category['name'] for category in self.dataset['categories']]
        for note in notes:
            if note not in self._notes:  # an evaluator reads the file of its data set again
                self._notes.add(note)
                print_log(note, 'current', logging.WARNING)
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    @classmethod
    def read(cls, annotation_file: str) -> Coco:
        """Read a file of the config, and match it with its images."""
        return read_coco(annotation_file, cls.folders.get(os.path.realpath(annotation_file)))


def use_our_reader() -> None:
    """Make mmdet's data set and metric of COCO's format read with :class:`CheckedCOCO`."""
    CocoDataset.COCOAPI = coco_metric.COCO = CheckedCOCO
