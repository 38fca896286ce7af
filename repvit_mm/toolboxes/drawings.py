"""Drawings of a test, a file for each image: classes, objects or label maps, beside the ground truth."""
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

from ..io.drawing import draw_labels, draw_lines, draw_objects, palette
from ..io.images import read_image
from .datasets import innermost

#: Smaller images are enlarged to this length of the shorter side, in proportion to the names of classes.
MIN_SIDE = 288
GAP = 12
#: Detections with a lower score are not drawn.
SCORE = 0.3


class _PerImage(Hook):
    """Writes a PNG file for each image of a test, at the path of the image below the folder of the images.

    Args:
        out_dir: The folder of the results.
    """

    def __init__(self, out_dir: str):
        self.out_dir = Path(out_dir)
        self._taken: dict[Path, str] = {}

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        """Write the file of every image of a batch."""
        dataset = runner.test_dataloader.dataset
        for sample in outputs:
            name = _name(sample.img_path, dataset)
            path = self.out_dir / Path(name).with_suffix('.png')
            if self._taken.setdefault(path, name) != name:  # a.jpg and a.png
                path = self.out_dir / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.draw(sample, dataset)).save(path)

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """The content of a file, uint8."""
        raise NotImplementedError


@HOOKS.register_module()
class DrawnSegmentation(_PerImage):
    """Draws the label map of the ground truth and, beside it, the predicted one."""

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """RGB, uint8 (H, W, 3)."""
        maps = [sample.get(name).data.squeeze(0).cpu().numpy() for name in ('gt_sem_seg', 'pred_sem_seg')
                if name in sample]
        return draw_segmentation(read_image(fileio.get(sample.img_path)), maps, dataset.metainfo['classes'],
                                 dataset.metainfo['palette'])


@HOOKS.register_module()
class LabelMaps(_PerImage):
    """Saves label maps as mmseg's metric does, which gives images of the same name in two folders one file."""

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """Labels as in the data set's files, uint8 (H, W)."""
        labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        return (labels + bool(dataset.reduce_zero_label)).astype(np.uint8)


@HOOKS.register_module()
class DrawnClasses(_PerImage):
    """Writes the most probable classes of an image over it."""

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """RGB, uint8 (H, W, 3)."""
        scores, labels = sample.pred_score.cpu().sort(descending=True)
        lines = [f'{dataset.metainfo["classes"][label]} {score:.2f}'
                 for score, label in zip(scores[:3].tolist(), labels.tolist(), strict=False)]
        return draw_lines(read_image(fileio.get(sample.img_path)), lines, palette(len(lines)))


@HOOKS.register_module()
class DrawnObjects(_PerImage):
    """Draws the objects of the ground truth and, beside them, the predicted ones."""

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """RGB, uint8 (H, W, 3)."""
        if not hasattr(self, '_truth'):
            self._truth = instances_of(dataset)
        return draw_detection(read_image(fileio.get(sample.img_path)), self._truth[sample.img_path],
                              sample.pred_instances, dataset.metainfo['classes'])


def instances_of(dataset: Any) -> dict[str, list[dict]]:
    """Path of an image -> its annotated objects, of a data set of mmdet or a wrapper of such."""
    infos = (inner.get_data_info(i) for inner in innermost(dataset) for i in range(len(inner)))
    return {info['img_path']: info['instances'] for info in infos}


def draw_detection(image: np.ndarray, truth: Sequence[Mapping], found: Any, classes: Sequence[str]) -> np.ndarray:
    """Draw the annotated objects of an image and, beside them, those predicted with a score of at least :data:`SCORE`.

    Args:
        image: RGB, uint8 (H, W, 3).
        truth: Instances of mmdet's data sets.
        found: ``pred_instances`` of mmdet.
        classes: Name of each label.

    Returns:
        RGB, uint8 (H', W', 3).
    """
    from mmdet.structures.mask import encode_mask_results
    known = [{'label': item['bbox_label'], 'box': item['bbox'], 'class': classes[item['bbox_label']],
              'mask': item.get('mask')} for item in truth if not item.get('ignore_flag')]
    found = found[found.scores >= SCORE].cpu()
    masks = encode_mask_results(found.masks) if 'masks' in found else [None] * len(found)
    shown = [{'label': label, 'box': box, 'class': classes[label], 'score': score, 'mask': mask} for
             label, box, score, mask in zip(found.labels.tolist(), found.bboxes.tolist(), found.scores.tolist(), masks,
                                            strict=True)]
    colours = palette(len(classes))
    panels = [draw_objects(image, objects, colours, MIN_SIDE, image.shape[1::-1]) for objects in (known, shown)]
    return _side_by_side(panels)


def _name(img_path: str, dataset: Any) -> str:
    prefix = getattr(dataset, 'data_prefix', None)
    folder = (prefix.get('img_path') or prefix.get('img')) if isinstance(prefix, Mapping) else None
    name = os.path.relpath(img_path, folder) if folder else ''
    return name if name and not name.startswith(os.pardir) else os.path.basename(img_path)


def draw_segmentation(image: np.ndarray, maps: Sequence[np.ndarray], classes: Sequence[str],
                      colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Draw each label map over the image, side by side; see :func:`repvit_mm.io.drawing.draw_labels`."""
    return _side_by_side([draw_labels(image, labels, classes, colours, MIN_SIDE) for labels in maps])


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full_like(panels[0][:, :GAP], 255)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])
