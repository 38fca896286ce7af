"""The one reader of pixels: an image of any format and mode becomes upright 8-bit RGB."""
import io
import logging
import os
import struct
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DatasetError, UserError
from .files import atomic_write, check_regular
from .image_files import IMAGE_FORMATS

#: Larger images are rejected by their header. A scan of A4 at 1200 dpi has 139 million pixels.
MOST_PIXELS = 150_000_000
#: Narrower images are rejected: resizing their short edge to that of a model would take gigabytes.
LARGEST_RATIO = 200
#: From this number of images on, decoding shows a progress bar.
MANY = 200
#: Colour behind transparent pixels.
BACKGROUND = (255, 255, 255)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
#: Chunks of a PNG that may hold its orientation.
_PNG_CHUNKS = (b'eXIf', b'XML:com.adobe.xmp', b'Raw profile type exif')
#: What Pillow raises for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, IndexError, struct.error, Image.DecompressionBombError)

warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)  # MOST_PIXELS is checked instead


class Normalisation(NamedTuple):
    """Normalisation of a model's images: ``(pixel - mean) / std`` for each channel, pixels from 0 to 255.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        channels: Order of the channels, ``'RGB'`` or ``'BGR'``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str


#: ImageNet's, used for all published weights.
IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 'RGB')


def read_image(source: str | Path | bytes, most_pixels: int = MOST_PIXELS, upright: bool = True) -> np.ndarray:
    """Read an image.

    The EXIF orientation is applied, transparent pixels are blended with :data:`BACKGROUND`, greyscale becomes grey RGB,
    and 16-bit greyscale is scaled to 8 bits. The first of several frames is read. Colour profiles are ignored.

    Args:
        source: Path or content of a file.
        most_pixels: Larger images are rejected by their header.
        upright: Whether to apply the EXIF orientation; TIFF files are always upright.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: If the file is missing, damaged, no image, too large or too narrow, or if its values are
            floating-point numbers or beyond 16 bits.
    """
    name = getattr(source, 'path', 'the image') if isinstance(source, bytes) else Path(source).expanduser()
    if isinstance(name, Path) and not name.is_file():  # a pipe could block forever
        raise UserError(f'the image {name} {"is a folder, expected a file" if name.is_dir() else "does not exist"}')
    try:
        with _open(source if isinstance(source, bytes) else name) as image:
            _check_size(*image.size, most_pixels)
            return _to_rgb(_upright(image) if upright else image, name)
    except UnidentifiedImageError as error:
        raise UserError(f'{name} is not in a supported image format ({", ".join(IMAGE_FORMATS)})') from error
    except Image.DecompressionBombError as error:
        raise UserError(f'{name} is too large: {error}') from error
    except _DAMAGED as error:
        raise UserError(f'{name} cannot be read, it is damaged or truncated ({error})') from error
    except UserError as error:
        raise UserError(f'{name}: {error}') from error


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height of what :func:`read_image` returns, from the header of a file; None if it cannot be read."""
    try:
        with _open(Path(path)) as image:
            _check_size(*image.size, MOST_PIXELS)
            return _upright_size(image)
    except (*_DAMAGED, UserError):
        return None  # read_image says why


def check_image(path: str | Path) -> tuple[int, int]:
    """Decode an image completely, faster than :func:`read_image`, which can then read it.

    Returns:
        Width and height of what :func:`read_image` returns.

    Raises:
        UserError: See :func:`read_image`.
    """
    if Path(path).is_file():
        with suppress(*_DAMAGED), _open(Path(path)) as image:
            if image.format == 'JPEG':
                _check_size(*image.size, MOST_PIXELS)
                size = _upright_size(image)
                image.draft('RGB', (image.width // 8, image.height // 8))  # read completely, but scaled down
                image.load()
                return size
    return read_image(path).shape[1::-1]


def check_images(paths: Sequence[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """Call :func:`check_image` in threads: image -> width and height, and image -> reason if it cannot be decoded."""
    from rich.console import Console
    from rich.progress import track  # takes longer to import than most tools take to read their image

    def check(path: Path) -> tuple[int, int] | str:
        try:
            return check_image(path)
        except UserError as error:
            return str(error).removeprefix(str(path)).lstrip(': ')

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(paths, track(pool.map(check, paths), 'Decoding images', len(paths), transient=True,
                                        console=Console(stderr=True), disable=len(paths) < MANY), strict=True))
    errors = {path: result for path, result in results.items() if isinstance(result, str)}
    return {path: size for path, size in results.items() if path not in errors}, errors


def _open(source: Path | bytes) -> Image.Image:
    if isinstance(source, Path):
        check_regular(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS)


def _check_size(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise UserError(f'the image is {width} x {height}, expected at most {most_pixels:,} pixels; scale it down or '
                        'cut it into tiles')
    if max(width, height) > LARGEST_RATIO * min(width, height):
        raise UserError(f'the image is {width} x {height}, expected one side to be at most {LARGEST_RATIO} times the '
                        'other')


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # errors here are not about EXIF data
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after :func:`_upright`, without decoding a file that was opened by its path."""
    with suppress(*_DAMAGED):
        if image.format == 'TIFF':  # Pillow rotates these, and returns the rotated size
            return image.size
        if image.format == 'PNG':  # Pillow would decode the file
            content = Path(image.filename).read_bytes()
            if not any(chunk in content for chunk in _PNG_CHUNKS):
                return image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            return image.size[::-1]
    return image.size


def _to_rgb(image: Image.Image, name: Any) -> np.ndarray:
    if image.mode == 'F':
        raise UserError('the values are floating-point numbers; save the image with 8 or 16 bits')
    if image.mode.startswith('I'):
        image = _to_8_bits(image, name)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, BACKGROUND), image)
    return np.array(image.convert('RGB'))


def _to_8_bits(image: Image.Image, name: Any) -> Image.Image:
    """Scale 16-bit greyscale, which some versions of Pillow and some files hold in 32 bits."""
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise UserError(f'the values are from {least} to {most}; save the image with 8 or 16 bits')
    for bits in (8, 10, 12):
        if 0 < most < 1 << bits:
            _note_depth(bits, str(name))
            break
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key = image.info.get('transparency')  # one value of a PNG
    return grey if key is None else Image.merge('LA', [grey, Image.fromarray(np.uint8(255 * (values != key)))])


_noted: set[int] = set()


def _note_depth(bits: int, name: str) -> None:
    if bits not in _noted:
        from mmengine.logging import print_log  # imports torch
        _noted.add(bits)
        print_log(f'{name} has 16 bits, but its values end at {(1 << bits) - 1} or below: it is nearly black. If they '
                  f'have {bits} bits, multiply them by {1 << 16 - bits}', 'current', logging.WARNING)


def read_label_image(path: str | Path, colours: bool = False) -> np.ndarray:
    """Read a label image.

    Args:
        path: The file.
        colours: Whether it may have several channels.

    Returns:
        (H, W) or (H, W, channels), the value of every pixel, in the type of the file.

    Raises:
        DatasetError: If it cannot be read, or has several channels.
    """
    try:
        with _open(Path(path)) as image:
            label = np.asarray(image)
    except _DAMAGED as error:
        raise DatasetError(f'{path} cannot be read as a label image: {error}') from error
    if label.ndim != 2 and not colours:
        raise DatasetError(f'{path} has {label.shape[2]} channels; expected a label image of one channel, whose values '
                           'are the indices of the classes')
    return label


def write_png(path: str | Path, image: np.ndarray) -> Path:
    """Write (H, W) or (H, W, 3) uint8 as PNG, whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    with atomic_write(path) as part:
        Image.fromarray(image).save(part, format='PNG')
    return path
