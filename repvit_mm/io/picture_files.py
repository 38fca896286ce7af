"""Files of pictures and of labels: which they are, what they hold, and which of them are held out."""
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DatasetError

#: Suffixes of the files that count as pictures in a folder.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff')
#: Part of the pictures that are held out for validation where the data set itself has no split.
HELD_OUT = 0.2
_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)

T = TypeVar('T')


def picture_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height as OpenCV loads it, from the header of the file; None for formats that Pillow does not know."""
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION) in _TURNED
            return picture.size[::-1] if turned else picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None  # an unreadable file is reported when it is loaded


def read_label_image(path: str | Path) -> np.ndarray:
    """The value of every pixel of a label image, (H, W), in the type of the file.

    Raises:
        DatasetError: If it cannot be read, or has several channels.
    """
    try:
        with Image.open(path) as picture:
            label = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of Pillow
        raise DatasetError(f'{path} cannot be read as a label image: {error}') from error
    if label.ndim != 2:
        raise DatasetError(f'{path} has {label.shape[2]} channels; a label image has one channel, whose values are the '
                           'numbers of the classes')
    return label


def held_out(items: Sequence[T], part: float) -> list[T]:
    """The items that are held out for validation: always the same, if the items are the same and in the same order.

    Args:
        items: At least two.
        part: Their fraction, 0-1; at least one is held out, and one is left.
    """
    count = min(max(1, round(len(items) * part)), len(items) - 1)
    return sorted(random.Random(0).sample(items, len(items))[:count])
