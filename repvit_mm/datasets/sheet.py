"""A contact sheet: some pictures of a data set with their annotations, and the classes below."""
import colorsys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as mask_utils

from ..errors import DatasetError
from ..toolboxes.segmentation_pictures import font_of, overlay_labels
from .found import Found, Mark, Picture
from .label_images import IGNORED, read_label
from .tree import counted

WIDTH, MARGIN, GAP, ROW = 1800, 48, 16, 330
PAPER, INK, GREY = (255, 255, 255), (32, 34, 40), (118, 122, 132)
#: Pictures for training and for validation; of a classification, for each class.
SHOWN = {'detection': (9, 3), 'segmentation': (6, 2)}
OF_A_CLASS, SHOWN_CLASSES = 24, 30
#: Classes in the legend, and pictures among which those to show are chosen.
LEGEND, CHOICE = 40, 2000
VIVID = ((226, 52, 66), (32, 112, 222), (34, 160, 84), (240, 150, 20), (140, 78, 204), (0, 160, 172), (232, 92, 30),
         (222, 70, 150), (116, 160, 24), (84, 86, 214), (160, 100, 52), (20, 130, 110))


def palette(number: int) -> list[tuple[int, int, int]]:
    """RGB of each class: the first ones by hand, then hues that keep their distance."""
    more = [colorsys.hsv_to_rgb(i * 0.618 % 1, (0.85, 0.6)[i % 2], (0.95, 0.75)[i // 2 % 2])
            for i in range(number - len(VIVID))]
    return [*VIVID[:number], *(tuple(round(255 * channel) for channel in colour) for colour in more)]


class Tile(NamedTuple):
    """A picture on the sheet, and the caption below it."""

    picture: Picture
    caption: str
    aspect: float


def draw_sheet(found: Found, path: Path) -> int:
    """Draw some pictures of a data set with their annotations.

    Args:
        found: The data set.
        path: The PNG to write.

    Returns:
        The number of pictures.

    Raises:
        DatasetError: If a picture cannot be decoded.
    """
    colours = palette(len(found.classes))
    tiles = _choose(found)
    rows = list(_rows(tiles))
    entries = _legend(found)
    columns = max(1, min(6, (WIDTH - 2 * MARGIN) // (int(max(map(font_of(20).getlength, entries.values()))) + 60)))
    heights = [height for _, height in rows]
    top = MARGIN + 96
    height = top + sum(heights) + len(rows) * (GAP + 24) + 24 + -(-len(entries) // columns) * 34 + MARGIN
    page = Image.new('RGB', (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 10), _fitting(found.root.resolve().name, 40, WIDTH - 2 * MARGIN), INK,
              font_of(40, bold=True))
    parts = ', '.join(f'{counted(len(part.pictures), "pictures")} for {split}' for split, part in found.parts.items())
    about = f'{found.kind}: {counted(len(found.classes), "classes")}, {parts}'
    draw.text((MARGIN, MARGIN + 44), about, GREY, font_of(22))
    y = top
    for row, height in rows:
        x = MARGIN
        for tile in row:
            width = round(tile.aspect * height)
            page.paste(_drawn(tile.picture, (width, height), found, colours), (x, y))
            draw.text((x + 1, y + height + 5), _fitting(tile.caption, 15, width), GREY, font_of(15))
            x += width + GAP
        y += height + GAP + 24
    for i, (label, text) in enumerate(entries.items()):
        x = MARGIN + i % columns * ((WIDTH - 2 * MARGIN) // columns)
        line = y + 24 + i // columns * 34
        draw.rounded_rectangle((x, line, x + 22, line + 22), 5, colours[label] if label >= 0 else PAPER)
        draw.text((x + 32, line - 2), text, INK, font_of(20))
    page.save(path)
    return len(tiles)


# Which pictures

def _choose(found: Found) -> list[Tile]:
    if found.task == 'classification':
        shown = min(len(found.classes), SHOWN_CLASSES)
        pictures = [('train', picture) for label in range(shown) for picture in _spread(
            [picture for picture in found.parts['train'].pictures if picture.label == label],
            max(1, OF_A_CLASS // shown))]
    else:
        numbers = zip(found.parts.items(), SHOWN[found.task], strict=True)
        pictures = [(split, picture) for (split, part), number in numbers for picture in _varied(part.pictures, number)]
    tiles = []
    for split, picture in pictures:
        if picture.size:
            width, height = picture.size
            aspect = min(max(width / height, 0.4), 3) * (2 if found.task == 'segmentation' else 1)
            tiles.append(Tile(picture, f'{split}: {picture.path.name}', aspect))
    if not tiles:
        raise DatasetError(f'no picture of {found.root} can be read')
    return tiles


def _spread(pictures: Sequence[Picture], number: int) -> list[Picture]:
    """So many pictures that can be read, evenly spaced."""
    pictures = [picture for picture in pictures if picture.size]
    return [pictures[i * len(pictures) // number] for i in range(number)] if len(pictures) > number else pictures


def _varied(pictures: Sequence[Picture], number: int) -> list[Picture]:
    """Pictures with as many classes as possible, in their order; evenly spaced ones once there are no new classes."""
    choice = _spread(pictures, CHOICE)
    labels = {id(picture): {mark.label for mark in picture.marks} for picture in choice}
    taken, seen = [], set()
    while len(taken) < number:
        best = max(choice, key=lambda picture: len(labels[id(picture)] - seen), default=None)
        if best is None or not labels[id(best)] - seen:
            break
        taken.append(best)
        choice.remove(best)
        seen |= labels[id(best)]
    with_marks = [picture for picture in choice if picture.marks or picture.label is not None] or choice
    taken += _spread(with_marks, number - len(taken)) if len(taken) < number else []
    return sorted(taken, key=lambda picture: picture.path)


def _rows(tiles: Sequence[Tile]) -> Iterator[tuple[list[Tile], int]]:
    """Rows of about the same height that fill the width, with their heights; few pictures do not fill it."""
    number = max(1, round(sum(tile.aspect for tile in tiles) * ROW / (WIDTH - 2 * MARGIN)))
    middles = np.cumsum([tile.aspect for tile in tiles]) - np.array([tile.aspect / 2 for tile in tiles])
    places = middles * number // sum(tile.aspect for tile in tiles)
    for place in range(number):
        row = [tile for tile, own in zip(tiles, places, strict=True) if own == place]
        if row:
            height = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / sum(tile.aspect for tile in row)
            yield row, int(min(height, 1.4 * ROW))


def _legend(found: Found) -> dict[int, str]:
    """Index of a class -> its name and what there is to learn from; the most frequent ones, if there are many."""
    counts = found.parts['train'].counts
    order = sorted(range(len(found.classes)), key=lambda i: -counts[i])[:LEGEND]
    total = sum(counts.values()) or 1
    texts = {i: f'{found.classes[i]}  ' + (f'{100 * counts[i] / total:.1f} %' if found.task == 'segmentation'
                                           else f'{counts[i]:,}')
             for i in (sorted(order) if len(found.classes) <= LEGEND else order)}
    if len(found.classes) > LEGEND:
        texts[-1] = f'... {len(found.classes) - LEGEND} more'
    return texts


# How they are drawn

def _drawn(picture: Picture, size: tuple[int, int], found: Found, colours: Sequence[Sequence[int]]) -> Image.Image:
    if found.task == 'segmentation':
        half = (size[0] // 2, size[1])
        photo = np.asarray(_photo(picture.path, half))
        labels = read_label(picture.label)
        if found.binary:
            labels = (labels == IGNORED).astype(np.uint8)
        labels = cv2.resize(labels, half, interpolation=cv2.INTER_NEAREST)
        both = np.hstack([photo, overlay_labels(photo, labels, np.asarray(colours, np.uint8))])
        return Image.fromarray(both)
    photo = _photo(picture.path, size)
    if found.task == 'classification':
        _write_name(ImageDraw.Draw(photo), (8, 8), found.classes[picture.label], colours[picture.label], 19)
        return photo
    return _with_marks(photo, picture, found.classes, colours)


def _photo(path: Path, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(path) as photo:
            photo.draft('RGB', (2 * size[0], 2 * size[1]))
            return ImageOps.exif_transpose(photo).convert('RGB').resize(size, Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of Pillow
        raise DatasetError(f'{path} cannot be decoded: {error}') from error


def _with_marks(photo: Image.Image, picture: Picture, classes: Sequence[str],
                colours: Sequence[Sequence[int]]) -> Image.Image:
    scale = photo.width / picture.size[0], photo.height / picture.size[1]
    marks = sorted(picture.marks, key=lambda mark: -(mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]))
    pixels = np.asarray(photo).astype(np.float32)
    for mark in marks:
        if mark.mask:
            cover = _cover(mark, picture.size, photo.size)[..., None]
            pixels += 0.5 * cover * (np.float32(colours[mark.label]) - pixels)
    photo = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(photo)
    for mark in marks:
        edges = [round(edge * scale[i % 2]) for i, edge in enumerate(mark.box)]
        left, top, right, bottom = (min(max(edge, 0), photo.size[i % 2] - 1) for i, edge in enumerate(edges))
        draw.rectangle((min(left, right), min(top, bottom), right, bottom), outline=tuple(colours[mark.label]),
                       width=2 if mark.mask else 3)
    placed: list[tuple[float, float, float, float]] = []
    for mark in marks:
        _place_name(draw, mark, classes[mark.label], colours[mark.label], scale, photo.size, placed)
    return photo


def _cover(mark: Mark, size: tuple[int, int], shown: tuple[int, int]) -> np.ndarray:
    """How much of each shown pixel a mask covers, float32 (H, W)."""
    mask = mark.mask
    if isinstance(mask, list):
        runs = mask_utils.merge(mask_utils.frPyObjects(mask, size[1], size[0]))
    elif isinstance(mask['counts'], list):
        runs = mask_utils.frPyObjects(mask, *mask['size'])
    else:
        runs = mask
    return cv2.resize(mask_utils.decode(runs).astype(np.float32), shown, interpolation=cv2.INTER_AREA)


def _place_name(draw: ImageDraw.ImageDraw, mark: Mark, name: str, colour: Sequence[int], scale: tuple[float, float],
                size: tuple[int, int], placed: list[tuple[float, float, float, float]]) -> None:
    """Write the name of an object above its box, or inside it, where no other name is."""
    left, top, _, bottom = (edge * scale[i % 2] for i, edge in enumerate(mark.box))
    width, height = font_of(14).getlength(name) + 10, 20
    x = min(max(left, 0), max(size[0] - width, 0))
    for y in (top - height, top, bottom - height, bottom):
        place = (x, y, x + width, y + height)
        if 0 <= y <= size[1] - height and not any(_overlap(place, other) for other in placed):
            _write_name(draw, (x, y), name, colour, 14)
            placed.append(place)
            return


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write_name(draw: ImageDraw.ImageDraw, corner: tuple[float, float], name: str, colour: Sequence[int],
                size: int) -> None:
    x, y = corner
    font = font_of(size)
    draw.rounded_rectangle((x, y, x + font.getlength(name) + 10, y + size + 6), 4, tuple(colour))
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 165
    draw.text((x + 5, y + 1), name, INK if bright else PAPER, font)


def _fitting(text: str, size: int, width: float) -> str:
    """A text, cut at its end if it is wider."""
    while len(text) > 4 and font_of(size).getlength(text) > width:
        text = text[:-4] + '...'
    return text
