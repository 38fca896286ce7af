"""Drawings of a test, a file for each image: classes, objects or label maps, beside the ground truth."""
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image, ImageDraw

from ..io.drawing import draw_lines, draw_objects, font_of, overlay_labels, palette
from ..io.images import read_image
from .datasets import innermost

#: Up to this many classes, the legend has all of them; beyond, those that occur.
MAX_LEGEND = 24
#: Smaller images are enlarged to this length of the shorter side, in proportion to the legend.
MIN_SIDE = 288
GAP = 12
#: Detections with a lower score are not drawn.
SCORE = 0.3
TEXT_SIZE = 15
PAPER, INK = (255, 255, 255), (45, 45, 50)


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
    """Draws ground truth and prediction over the image, with a legend of the classes.

    mmseg's own hook writes the names of the classes over their regions; a legend leaves the regions visible.
    """

    def draw(self, sample: Any, dataset: Any) -> np.ndarray:
        """RGB, uint8 (H, W, 3)."""
        maps = {'ground truth': sample.gt_sem_seg} if 'gt_sem_seg' in sample else {}
        maps['prediction'] = sample.pred_sem_seg
        return draw_segmentation(read_image(fileio.get(sample.img_path)),
                                 {caption: labels.data.squeeze(0).cpu().numpy() for caption, labels in maps.items()},
                                 dataset.metainfo['classes'], dataset.metainfo['palette'])


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
    return np.hstack([panels[0], np.full_like(panels[0][:, :GAP], 255), panels[1]])


def _name(img_path: str, dataset: Any) -> str:
    prefix = getattr(dataset, 'data_prefix', None)
    folder = (prefix.get('img_path') or prefix.get('img')) if isinstance(prefix, Mapping) else None
    name = os.path.relpath(img_path, folder) if folder else ''
    return name if name and not name.startswith(os.pardir) else os.path.basename(img_path)


def draw_segmentation(image: np.ndarray, maps: Mapping[str, np.ndarray], classes: Sequence[str],
                      palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Draw a photo, a coloured overlay for every label map beside it, and the legend of the classes below.

    Args:
        image: RGB, uint8 (H, W, 3).
        maps: Caption -> label of every pixel, integers (H, W). Other values (255) stay grey.
        classes: Name of each label.
        palette: RGB of each label, 0-255.

    Returns:
        RGB, uint8 (H', W', 3).

    Example:
        >>> import numpy as np
        >>> photo, labels = np.zeros((300, 400, 3), np.uint8), np.ones((300, 400), int)
        >>> draw_segmentation(photo, {'prediction': labels}, ['sky', 'road'], [[70, 130, 180], [128, 64, 128]]).shape
        (386, 836, 3)
    """
    scale = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    height, width = scale * image.shape[0], scale * image.shape[1]
    photo = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    enlarged = {caption: cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST)
                for caption, labels in maps.items()}
    colours = np.asarray(palette, np.uint8)
    panels = {'image': photo, **{caption: overlay_labels(photo, labels, colours)
                                 for caption, labels in enlarged.items()}}

    font, caption_height = font_of(TEXT_SIZE), TEXT_SIZE + GAP
    page_width = len(panels) * (width + GAP) + GAP
    entries = _legend(list(enlarged.values()), classes)
    places, legend_height = _flow([font.getlength(classes[label]) for label in entries], page_width)
    page = Image.new('RGB', (page_width, GAP + caption_height + height + legend_height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (caption, panel) in enumerate(panels.items()):
        x = GAP + i * (width + GAP)
        draw.text((x, GAP), caption, INK, font)
        page.paste(Image.fromarray(panel), (x, GAP + caption_height))
    for label, (x, y) in zip(entries, places, strict=True):
        y += GAP + caption_height + height
        draw.rounded_rectangle((x, y, x + TEXT_SIZE, y + TEXT_SIZE), 3, tuple(colours[label].tolist()), INK)
        draw.text((x + TEXT_SIZE + 6, y - 2), classes[label], INK, font)
    return np.asarray(page)


def _legend(maps: Sequence[np.ndarray], classes: Sequence[str]) -> list[int]:
    """The labels to explain: all if they are few, otherwise those that occur, largest first."""
    if len(classes) <= MAX_LEGEND:
        return list(range(len(classes)))
    area = sum(np.bincount(labels[(labels >= 0) & (labels < len(classes))], minlength=len(classes)) for labels in maps)
    return [label for label in np.argsort(-area, kind='stable').tolist() if area[label]]


def _flow(text_widths: Sequence[float], page_width: int) -> tuple[list[tuple[int, int]], int]:
    """Upper left corners of the legend's entries, laid out in columns row by row, and their total height."""
    if not text_widths:
        return [], 0
    column = int(max(text_widths)) + TEXT_SIZE + 6 + 2 * GAP
    columns = max(1, (page_width - GAP) // column)
    line = TEXT_SIZE + 8
    places = [(GAP + i % columns * column, GAP + i // columns * line) for i in range(len(text_widths))]
    return places, GAP + -(-len(text_widths) // columns) * line
