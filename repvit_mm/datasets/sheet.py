"""A contact sheet: some images of a data set with their annotations."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..io.drawing import INK, PAPER, draw_labels, draw_objects, font_of, palette, write_name
from ..io.images import read_image
from .dataset import Dataset, Sample

#: Columns of the page, width and height of their cells, and the space between them.
COLUMNS, CELL, GAP = 4, (414, 320), 28
#: Images for training and for validation; of a classification, for training alone.
SHOWN = {'detection': (9, 3), 'segmentation': (6, 2), 'classification': (24, 0)}


def draw_sheet(dataset: Dataset, path: Path) -> int:
    """Draw some images of a data set with their annotations.

    Args:
        dataset: The data set.
        path: The PNG to write.

    Returns:
        The number of images.
    """
    colours = palette(len(dataset.classes))
    chosen = [(f'{split}: {sample.path.name}', sample) for (split, part), number in zip(
        dataset.splits.items(), SHOWN[dataset.task], strict=True) for sample in _spread(part.samples, number)]
    cells = [(caption, cell) for caption, sample in chosen for cell in _drawn(sample, dataset, colours)]
    width, height = CELL[0] + GAP, CELL[1] + GAP
    page = Image.new('RGB', (COLUMNS * width + GAP, -(-len(cells) // COLUMNS) * height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (caption, cell) in enumerate(cells):
        x, y = GAP + i % COLUMNS * width, GAP + i // COLUMNS * height
        page.paste(cell, (x, y + CELL[1] - cell.height))
        draw.text((x + 1, y + CELL[1] + 5), caption[:50], INK, font_of(15))
    page.save(path, compress_level=1)
    return len(chosen)


def _spread(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Evenly spaced samples, with annotations if there are some."""
    samples = [sample for sample in samples if sample.objects or sample.label is not None] or samples
    return [samples[i * len(samples) // number] for i in range(number)] if len(samples) > number else list(samples)


def _drawn(sample: Sample, dataset: Dataset, colours: Sequence[Sequence[int]]) -> list[Image.Image]:
    """The cells of an image."""
    image = ImageOps.contain(Image.fromarray(read_image(sample.path)), CELL, Image.Resampling.LANCZOS)
    if dataset.task == 'segmentation':
        labels = cv2.resize(dataset.read_labels(sample.label), image.size, interpolation=cv2.INTER_NEAREST)
        return [image, Image.fromarray(draw_labels(np.asarray(image), labels, dataset.classes, colours))]
    if dataset.task == 'classification':
        write_name(ImageDraw.Draw(image), (8, 8), dataset.classes[sample.label], colours[sample.label], 19)
        return [image]
    objects = [{'label': item.label, 'class': dataset.classes[item.label], 'box': item.box, 'mask': item.mask}
               for item in sample.objects]
    return [Image.fromarray(draw_objects(np.asarray(image), objects, colours, size=sample.size))]
