"""Colours of classes, and objects drawn over an image."""
import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from ..toolboxes.segmentation_pictures import font_of
from .dataset import Object

PAPER, INK = (255, 255, 255), (32, 34, 40)
VIVID = ((226, 52, 66), (32, 112, 222), (34, 160, 84), (240, 150, 20), (140, 78, 204), (0, 160, 172), (232, 92, 30),
         (222, 70, 150), (116, 160, 24), (84, 86, 214), (160, 100, 52), (20, 130, 110))


def palette(number: int) -> list[tuple[int, int, int]]:
    """RGB of each class: the first ones by hand, then hues that keep their distance."""
    more = [colorsys.hsv_to_rgb(i * 0.618 % 1, (0.85, 0.6)[i % 2], (0.95, 0.75)[i // 2 % 2])
            for i in range(number - len(VIVID))]
    return [*VIVID[:number], *(tuple(round(255 * channel) for channel in colour) for colour in more)]


def draw_objects(image: Image.Image, objects: Sequence[Object], size: tuple[int, int], names: Sequence[str],
                 colours: Sequence[Sequence[int]]) -> Image.Image:
    """Draw objects over an image, the largest first: masks, boxes, and names where no other name is.

    Args:
        image: RGB, of any scale.
        objects: The objects.
        size: Width and height that boxes and masks are for.
        names: Name of each label.
        colours: RGB of each label.
    """
    scale = image.width / size[0], image.height / size[1]
    objects = sorted(objects, key=lambda item: -(item.box[2] - item.box[0]) * (item.box[3] - item.box[1]))
    pixels = np.asarray(image).astype(np.float32)
    for item in objects:
        if item.mask:
            cover = cv2.resize(_decode(item.mask, size), image.size, interpolation=cv2.INTER_AREA)[..., None]
            pixels += 0.5 * cover * (np.float32(colours[item.label]) - pixels)
    image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    draw, taken = ImageDraw.Draw(image), []
    boxes = [[min(max(edge * scale[i % 2], 0), image.size[i % 2] - 1) for i, edge in enumerate(item.box)]
             for item in objects]
    for item, (left, top, right, bottom) in zip(objects, boxes, strict=True):
        draw.rectangle((min(left, right), min(top, bottom), right, bottom), outline=tuple(colours[item.label]),
                       width=2 if item.mask else 3)
    for item, (left, top, _, bottom) in zip(objects, boxes, strict=True):
        width, height = font_of(14).getlength(names[item.label]) + 10, 20
        x = min(left, max(image.width - width, 0))
        for y in (top - height, top, bottom - height, bottom):
            if 0 <= y <= image.height - height and not any(
                    x < other[0] + other[2] and other[0] < x + width and abs(y - other[1]) < height
                    for other in taken):
                write_name(draw, (x, y), names[item.label], colours[item.label], 14)
                taken.append((x, y, width))
                break
    return image


def _decode(mask: list | dict, size: tuple[int, int]) -> np.ndarray:
    """A mask in COCO format, float32 (H, W)."""
    if isinstance(mask, list):
        mask = mask_utils.merge(mask_utils.frPyObjects(mask, size[1], size[0]))
    elif isinstance(mask['counts'], list):
        mask = mask_utils.frPyObjects(mask, *mask['size'])
    return mask_utils.decode(mask).astype(np.float32)


def write_name(draw: ImageDraw.ImageDraw, corner: tuple[float, float], name: str, colour: Sequence[int],
               size: int) -> None:
    """Write a class name on its colour."""
    x, y = corner
    font = font_of(size)
    draw.rounded_rectangle((x, y, x + font.getlength(name) + 10, y + size + 6), 4, tuple(colour))
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 165
    draw.text((x + 5, y + 1), name, INK if bright else PAPER, font)
