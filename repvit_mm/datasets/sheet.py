"""A contact sheet: some images of a data set with their annotations, and the classes below."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..io.drawing import INK, PAPER, draw_objects, font_of, palette, write_name
from ..io.images import read_image
from ..toolboxes.segmentation_pictures import overlay_labels
from .dataset import Dataset, Sample
from .tree import counted

GREY = (118, 122, 132)
#: Width of the page, its margin, and columns, width and height of its cells.
WIDTH, MARGIN, COLUMNS, CELL = 1800, 48, 4, (414, 320)
GAP, LINE = 16, 34
#: Images for training and for validation; of a classification, for training alone.
SHOWN = {'detection': (9, 3), 'segmentation': (6, 2), 'classification': (24, 0)}
#: Classes in the legend, and images among which those to show are chosen.
LEGEND, CHOICE = 40, 2000


def draw_sheet(dataset: Dataset, path: Path) -> int:
    """Draw some images of a data set with their annotations.

    Args:
        dataset: The data set.
        path: The PNG to write.

    Returns:
        The number of images.
    """
    colours = palette(len(dataset.classes))
    chosen = [(split, sample) for (split, part), number in zip(
        dataset.splits.items(), SHOWN[dataset.task], strict=True) for sample in _varied(part.samples, number)]
    cells = [(cell, f'{split}: {sample.path.name}') for split, sample in chosen
             for cell in _drawn(sample, dataset, colours)]
    legend = _legend(dataset)
    columns = max(1, min(6, (WIDTH - 2 * MARGIN) // (int(max(map(font_of(20).getlength, legend.values()))) + 60)))
    top = MARGIN + 96
    bottom = top + -(-len(cells) // COLUMNS) * (CELL[1] + GAP + 24) + 24
    page = Image.new('RGB', (WIDTH, bottom + -(-len(legend) // columns) * LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 10), dataset.root.resolve().name[:60], INK, font_of(40, bold=True))
    parts = [f'{counted(len(part.samples), "images")} for {split}' for split, part in dataset.splits.items()]
    draw.text((MARGIN, MARGIN + 44), f'{dataset.kind}: {counted(len(dataset.classes), "classes")}, {", ".join(parts)}',
              GREY, font_of(22))
    for i, (cell, caption) in enumerate(cells):
        x, y = MARGIN + i % COLUMNS * (CELL[0] + GAP), top + i // COLUMNS * (CELL[1] + GAP + 24)
        page.paste(cell, (x, y + CELL[1] - cell.height))
        draw.text((x + 1, y + CELL[1] + 5), caption[:50], GREY, font_of(15))
    for i, (label, text) in enumerate(legend.items()):
        x, y = MARGIN + i % columns * ((WIDTH - 2 * MARGIN) // columns), bottom + i // columns * LINE
        draw.rounded_rectangle((x, y, x + 22, y + 22), 5, colours[label] if label >= 0 else PAPER)
        draw.text((x + 32, y - 2), text, INK, font_of(20))
    page.save(path)
    return len(chosen)


def _varied(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Images with as many classes as possible, then evenly spaced ones."""
    choice = _spread(samples, CHOICE)
    labels = {sample.path: {item.label for item in sample.objects} or {sample.label} for sample in choice}
    taken, seen = [], set()
    while len(taken) < number and choice:
        best = max(choice, key=lambda sample: len(labels[sample.path] - seen))
        if not labels[best.path] - seen:
            break
        taken.append(best)
        choice.remove(best)
        seen |= labels[best.path]
    annotated = [sample for sample in choice if sample.objects or sample.label is not None] or choice
    return sorted([*taken, *_spread(annotated, number - len(taken))])


def _spread(samples: Sequence[Sample], number: int) -> list[Sample]:
    """So many images, evenly spaced."""
    return [samples[i * len(samples) // number] for i in range(number)] if len(samples) > number else list(samples)


def _legend(dataset: Dataset) -> dict[int, str]:
    """Index of a class -> its name and what there is to learn from; the most frequent ones if there are many."""
    counts = dataset.splits['train'].counts
    total, number = sum(counts.values()) or 1, len(dataset.classes)
    order = sorted(range(number), key=lambda i: -counts[i])[:LEGEND]
    texts = {i: f'{dataset.classes[i]}  ' + (f'{100 * counts[i] / total:.1f} %' if dataset.task == 'segmentation'
                                             else f'{counts[i]:,}')
             for i in (sorted(order) if number <= LEGEND else order)}
    return texts | ({-1: f'... {number - LEGEND} more'} if number > LEGEND else {})


def _drawn(sample: Sample, dataset: Dataset, colours: Sequence[Sequence[int]]) -> list[Image.Image]:
    """The cells of an image."""
    scale = min(CELL[0] / sample.size[0], CELL[1] / sample.size[1])
    size = max(1, round(scale * sample.size[0])), max(1, round(scale * sample.size[1]))
    image = Image.fromarray(read_image(sample.path)).resize(size, Image.Resampling.LANCZOS)
    if dataset.task == 'segmentation':
        labels = cv2.resize(dataset.read_labels(sample.label), size, interpolation=cv2.INTER_NEAREST)
        return [image, Image.fromarray(overlay_labels(np.asarray(image), labels, np.asarray(colours, np.uint8)))]
    if dataset.task == 'classification':
        write_name(ImageDraw.Draw(image), (8, 8), dataset.classes[sample.label], colours[sample.label], 19)
        return [image]
    objects = [{'label': item.label, 'class': dataset.classes[item.label], 'box': item.box, 'mask': item.mask}
               for item in sample.objects]
    return [Image.fromarray(draw_objects(np.asarray(image), objects, colours, size=sample.size))]
