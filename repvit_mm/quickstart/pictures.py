"""Plots of a training's losses, and of the detections on held-out scenes."""
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pycocotools import mask as mask_utils

#: Detections with a lower score are not drawn.
SCORE = .5


def draw_losses(scalars: Sequence[dict], path: Path, title: str) -> None:
    """Draw the total loss and its parts over the training steps.

    Args:
        scalars: What :func:`repvit_mm.scalars.read_scalars` returns.
        path: The PNG to write.
        title: Title of the picture.
    """
    scalars = [line for line in scalars if 'loss' in line]
    figure = Figure(figsize=(8, 4.5), dpi=150, layout='constrained')
    figure.suptitle(title)
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


def draw_detections(predictions: Path, annotations: Path, images: Path, path: Path, title: str, rows: int = 3,
                     columns: int = 4) -> None:
    """Draw the detections on the first images of a test.

    Args:
        predictions: Results in COCO's format, with masks.
        annotations: Annotations in COCO's format, for the images and categories.
        images: Folder of the images.
        path: The PNG to write.
        title: Title of the picture.
        rows: Rows of images.
        columns: Columns of images.
    """
    content, found = json.loads(annotations.read_text()), json.loads(predictions.read_text())
    samples = content['images'][:rows * columns]
    names = {category['id']: category['name'] for category in content['categories']}
    rows = min(rows, -(-len(samples) // columns))
    figure = Figure(figsize=(3 * columns, 3 * rows + .5), dpi=130, layout='constrained')
    figure.suptitle(title)
    for axes, sample in zip(figure.subplots(rows, columns, squeeze=False).flat, samples, strict=False):
        axes.imshow(Image.open(images / sample['file_name']), interpolation='bicubic')
        for instance in found:
            if instance['image_id'] == sample['id'] and instance['score'] >= SCORE:
                _draw_instance(axes, instance, names[instance['category_id']])
    for axes in figure.axes:
        axes.set_axis_off()
    figure.savefig(path)


def _draw_instance(axes: Axes, instance: dict, name: str) -> None:
    mask = mask_utils.decode(instance['segmentation']).astype(float)
    colour = matplotlib.colormaps['tab10'](instance['category_id'] % 10)
    overlay = np.zeros((*mask.shape, 4))
    overlay[...] = colour
    overlay[..., 3] = .35 * mask
    axes.imshow(overlay, interpolation='bilinear')
    if 0 < mask.sum() < mask.size:
        outline = axes.contour(mask, [.5], colors=[colour], linewidths=1.2)
        outline.set_path_effects([patheffects.withStroke(linewidth=2., foreground='white')])
    x, y, width, height = instance['bbox']
    axes.text(x + width / 2, y + height / 2, f'{name} {instance["score"]:.2f}', color='white', fontsize=7.5,
              ha='center', va='center', clip_on=True,
              bbox=dict(boxstyle='round,pad=.25', facecolor=colour, linewidth=0))
