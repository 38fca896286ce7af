"""Drawings: colours of classes, objects with their names over an image, and lines of text."""
import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils

PAPER, INK = (255, 255, 255), (32, 34, 40)
_VIVID = ((226, 52, 66), (32, 112, 222), (34, 160, 84), (240, 150, 20), (140, 78, 204), (0, 160, 172), (232, 92, 30),
          (222, 70, 150), (116, 160, 24), (84, 86, 214), (160, 100, 52), (20, 130, 110))
#: Largest classes of a label map that are named.
_NAMES = 8
#: Opacity of label colours over an image, 0-1.
_OPACITY = 0.6
#: Height of a label relative to the short edge of the image, and its limits in pixels.
_TEXT, _SMALLEST, _LARGEST = 1 / 32, 12, 28


def palette(number: int) -> list[tuple[int, int, int]]:
    """RGB of each class: chosen by hand for the first ones, then evenly distinct hues."""
    more = [colorsys.hsv_to_rgb(i * 0.618 % 1, (0.85, 0.6)[i % 2], (0.95, 0.75)[i // 2 % 2])
            for i in range(number - len(_VIVID))]
    return [*_VIVID[:number], *(tuple(round(255 * channel) for channel in colour) for colour in more)]


def draw_objects(image: np.ndarray, objects: Sequence[Mapping[str, Any]],
                 colours: Sequence[Sequence[int]] | None = None, smallest: int = 0,
                 size: tuple[int, int] | None = None) -> np.ndarray:
    """Draw objects over an image, largest first: masks, thin boxes, and names that do not overlap.

    Args:
        image: RGB, uint8 (H, W, 3).
        objects: Each with ``label`` (index of its class), ``box`` (left, top, right, bottom in pixels), ``class`` (its
            name) and optionally ``score`` and ``mask`` (polygons or run lengths in COCO format), as in the
            ``predictions.json`` of ``repvit-mm infer``.
        colours: RGB of each label; by default those of :func:`palette`.
        smallest: Enlarge an image with a shorter short edge, in pixels, so that names do not cover it.
        size: Width and height that boxes and masks are for; by default those of ``image``.

    Returns:
        RGB, uint8 (H', W', 3).
    """
    size = size or image.shape[1::-1]
    if (scale := -(-smallest // min(image.shape[:2]))) > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    height, width = image.shape[:2]
    colours = colours or palette(1 + max((item['label'] for item in objects), default=0))
    objects = sorted(objects, key=lambda item: (item['box'][0] - item['box'][2]) * (item['box'][3] - item['box'][1]))
    boxes = [_inside([edge * (width, height)[i % 2] / size[i % 2] for i, edge in enumerate(item['box'])], width, height)
             for item in objects]
    pixels = image.astype(np.float32)
    for item in objects:
        if item.get('mask'):
            cover = cv2.resize(_decode(item['mask'], *size), (width, height), interpolation=cv2.INTER_AREA)
            covered = cover > 0
            pixels[covered] += 0.45 * cover[covered, None] * (np.float32(colours[item['label']]) - pixels[covered])
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    draw, taken, text_size = ImageDraw.Draw(drawn), [], _text_size(width, height)
    for item, box in zip(objects, boxes, strict=True):
        draw.rectangle(box, outline=tuple(colours[item['label']]), width=1 + (text_size > 16))
    for item, (left, top, _, bottom) in zip(objects, boxes, strict=True):
        text = item['class'] + (f' {item["score"]:.2f}' if 'score' in item else '')
        across, high = font_of(text_size).getlength(text) + 8, text_size + 5
        x = min(left, max(width - across, 0))
        for y in (top - high, top, bottom - high, bottom):
            if 0 <= y <= height - high and not any(
                    x < other[0] + other[2] and other[0] < x + across and abs(y - other[1]) < high for other in taken):
                write_name(draw, (x, y), text, colours[item['label']], text_size)
                taken.append((x, y, across))
                break
    return np.asarray(drawn)


def draw_lines(image: np.ndarray, lines: Sequence[str], colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Write lines of text, each on a colour, into the upper left corner of an image, RGB, uint8 (H, W, 3)."""
    drawn, size = Image.fromarray(image), _text_size(image.shape[1], image.shape[0])
    draw = ImageDraw.Draw(drawn)
    for i, (line, colour) in enumerate(zip(lines, colours, strict=False)):
        write_name(draw, (6, 6 + i * (size + 8)), line, colour, size)
    return np.asarray(drawn)


def draw_labels(image: np.ndarray, labels: np.ndarray, classes: Sequence[str], colours: Sequence[Sequence[int]],
                smallest: int = 0) -> np.ndarray:
    """Draw a label map over an image in grey, with a line around each region and the names of the largest classes.

    Args:
        image: RGB, uint8 (H, W, 3).
        labels: Label of every pixel, integers (H, W). Values beyond the classes (255) stay grey.
        classes: Name of each label.
        colours: RGB of each label, 0-255.
        smallest: See :func:`draw_objects`.

    Returns:
        RGB, uint8 (H', W', 3).
    """
    if (scale := -(-smallest // min(image.shape[:2]))) > 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        labels = cv2.resize(labels.astype(np.int32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    known = (labels >= 0) & (labels < min(len(classes), len(colours)))
    drawn = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    filled = np.asarray(colours, np.uint8)[np.where(known, labels, 0)]
    drawn[known] = cv2.addWeighted(drawn, 1 - _OPACITY, filled, _OPACITY, 0)[known]
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    drawn[edges] = cv2.addWeighted(drawn, 0.4, np.full_like(drawn, 255), 0.6, 0)[edges]
    found, area = np.unique(labels[known], return_counts=True)
    largest = found[np.argsort(-area)][:_NAMES].tolist()
    return draw_lines(drawn, [classes[label] for label in largest], [colours[label] for label in largest])


def write_name(draw: ImageDraw.ImageDraw, corner: tuple[float, float], name: str, colour: Sequence[int],
               size: int) -> None:
    """Write a class name on its colour."""
    x, y = corner
    draw.rounded_rectangle((x, y, x + font_of(size).getlength(name) + 7, y + size + 4), 3, tuple(colour))
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 165
    draw.text((x + 4, y + 1), name, INK if bright else PAPER, font_of(size))


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font of drawings, in a size in pixels."""
    from matplotlib import get_data_path  # mmengine needs matplotlib, which brings this font
    return ImageFont.truetype(f'{get_data_path()}/fonts/ttf/DejaVuSans.ttf', size)


def _text_size(width: int, height: int) -> int:
    return round(min(max(_TEXT * min(width, height), _SMALLEST), _LARGEST))


def _inside(box: Sequence[float], width: int, height: int) -> list[float]:
    left, top, right, bottom = (min(max(edge, 0), (width, height)[i % 2] - 1) for i, edge in enumerate(box))
    return [min(left, right), min(top, bottom), right, bottom]


def _decode(mask: list | dict, width: int, height: int) -> np.ndarray:
    """A mask in COCO format, float32 (H, W)."""
    if isinstance(mask, list):
        mask = mask_utils.merge(mask_utils.frPyObjects(mask, height, width))
    elif isinstance(mask['counts'], list):
        mask = mask_utils.frPyObjects(mask, *mask['size'])
    return mask_utils.decode(mask).astype(np.float32)
