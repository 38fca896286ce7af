"""Plots of a training's losses, and of the detections on held-out scenes."""
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pycocotools import mask as mask_utils

#: Detections with a lower score are not drawn.
SCORE = .5
#: Of two detections whose masks have a higher IoU, only the surer one is drawn.
OVERLAP = .5
#: Masks are drawn at this multiple of their resolution, with borders smoothed over this many of their pixels.
ENLARGED, SMOOTHED = 4, 1.
#: Images on a sheet.
ROWS, COLUMNS = 3, 4


def draw_losses(scalars: Sequence[dict], path: Path) -> None:
    """Draw the total loss and its parts over the training steps.

    Args:
        scalars: Lines of mmengine's ``scalars.json``.
        path: The PNG to write.
    """
    scalars = [line for line in scalars if 'loss' in line]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout='constrained')
    figure.suptitle('Mask R-CNN on RepViT, trained from random weights')
    axes = figure.subplots()
    parts = sorted({name for line in scalars for name in line if name.startswith('loss_')})
    for name in ('loss', *parts):
        points = [(line['step'], line[name]) for line in scalars if name in line]
        label = 'total' if name == 'loss' else name.removeprefix('loss_').replace('_', ' ')
        axes.plot(*zip(*points, strict=True), label=label, color='black' if name == 'loss' else None,
                  linewidth=2 if name == 'loss' else 1.3)
    axes.set(xlabel='training step', ylabel='loss', yscale='log')
    axes.set_xlim(0)
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axes.grid(alpha=.25, which='both')
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(frameon=False, ncols=len(parts) + 1, fontsize='small', loc='outside lower center')
    figure.savefig(path)


def draw_detections(predictions: Path, annotations: Path, images: Path, path: Path) -> None:
    """Draw the detections on the first images of a test.

    Args:
        predictions: Results in COCO's format, with masks.
        annotations: Annotations in COCO's format, for the images and categories.
        images: Folder of the images.
        path: The PNG to write.
    """
    content, found = json.loads(annotations.read_text()), json.loads(predictions.read_text())
    samples = content['images'][:ROWS * COLUMNS]
    names = {category['id']: category['name'] for category in content['categories']}
    rows = min(ROWS, -(-len(samples) // COLUMNS))
    figure = Figure(figsize=(3 * COLUMNS, 3 * rows + .5), dpi=130, layout='constrained')
    figure.suptitle('Detections on held-out scenes')
    for axes, sample in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, samples, strict=False):
        axes.imshow(Image.open(images / sample['file_name']), interpolation='bicubic')
        instances = [one for one in found if one['image_id'] == sample['id'] and one['score'] >= SCORE]
        for instance in _distinct(instances)[::-1]:  # the surest on top
            _draw_instance(axes, instance, names[instance['category_id']])
    for axes in figure.axes:
        axes.set_axis_off()
    figure.savefig(path)


def _distinct(instances: Sequence[dict]) -> list[dict]:
    """Detections of different objects, the surest first: without further guesses at the class of the same one."""
    kept = []
    for instance in sorted(instances, key=lambda one: -one['score']):
        others = [one['segmentation'] for one in kept]
        if not kept or mask_utils.iou([instance['segmentation']], others, [False] * len(others)).max() <= OVERLAP:
            kept.append(instance)
    return kept


def _draw_instance(axes: Axes, instance: dict, name: str) -> None:
    colour = matplotlib.colormaps['tab10'](instance['category_id'] % 10)
    coverage = _coverage(mask_utils.decode(instance['segmentation']))
    height, width = (side / ENLARGED for side in coverage.shape)
    overlay = np.full((*coverage.shape, 4), colour)
    overlay[..., 3] = .35 * coverage
    extent = (-.5, width - .5, height - .5, -.5)
    axes.imshow(overlay, interpolation='bilinear', extent=extent)
    if coverage.min() < .5 <= coverage.max():
        outline = axes.contour(coverage, [.5], colors=[colour], linewidths=1.5, origin='upper', extent=extent)
        outline.set_path_effects([patheffects.withStroke(linewidth=3., foreground='white')])
    x, y, width, height = instance['bbox']
    axes.text(x + width / 2, y + height / 2, f'{name} {instance["score"]:.2f}', color='white', fontsize=7.5,
              ha='center', va='center', clip_on=True,
              bbox=dict(boxstyle='round,pad=.25', facecolor=colour, linewidth=0))


def _coverage(mask: np.ndarray) -> np.ndarray:
    """A mask of 0 and 1, enlarged: how far each pixel is inside, 0 to 1, without the steps of the pixels."""
    enlarged = cv2.resize(mask.astype(np.float32), None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_LINEAR)
    return np.clip(4 * cv2.GaussianBlur(enlarged, (0, 0), SMOOTHED * ENLARGED) - 1.5, 0, 1)
