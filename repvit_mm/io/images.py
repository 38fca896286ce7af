"""Reading pictures of any format as 8-bit RGB, upright."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from .files import atomic_write
from .picture_files import EXTENSIONS

#: Larger pictures are refused by their header; they would take more than 1 GB.
MOST_PIXELS = 100_000_000
#: Of narrower pictures, nothing would be left at the input size of a model.
LARGEST_RATIO = 50


def read_image(path: str | Path, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Read a picture.

    Args:
        path: A file in any format that Pillow can read.
        most_pixels: Larger pictures are refused by their header.

    Returns:
        (H, W, 3) uint8 RGB; see :func:`to_rgb` for the conversion of other modes.

    Raises:
        UserError: If the file is missing, damaged, or not a picture.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        reason = 'is a folder, expected a picture' if path.is_dir() else 'does not exist'
        raise UserError(f'the picture {path} {reason}')
    try:
        with Image.open(path) as image:
            _check_size(*image.size, most_pixels)
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise UserError(f'{path} is not in a picture format that Pillow can read (JPEG, PNG, ...)') from error
    except Image.DecompressionBombError as error:
        raise UserError(f'{path} is too large: {error}') from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise UserError(f'{path} cannot be read, it is damaged or truncated ({error})') from error
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any picture to (H, W, 3) uint8 RGB.

    The EXIF orientation is applied, transparent parts get a white background, greyscale becomes grey RGB, and 16-bit
    values are scaled to 8 bits.

    Raises:
        UserError: If it is too large or too narrow, or its values are floating-point numbers or beyond 16 bits.
    """
    _check_size(*image.size, MOST_PIXELS)
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise UserError('its pixels are floating-point numbers; save it with 8 or 16 bits')
    if image.mode.startswith('I'):  # 16 bits, which some versions of Pillow and some files hold in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f'its values go from {values.min()} to {values.max()}; save it with 8 or 16 bits')
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if 'A' in image.getbands() or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))


def _check_size(width: int, height: int, most_pixels: int) -> None:
    if max(width, height) > LARGEST_RATIO * min(width, height) or width * height > most_pixels:
        raise UserError(f'its size is {width} x {height}; expected at most {most_pixels:,} pixels, one side at most '
                        f'{LARGEST_RATIO} times the other')


def list_images(folder: str | Path) -> list[Path]:
    """All pictures in a folder and its subfolders, sorted.

    Raises:
        UserError: If the folder does not exist or holds no picture.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f'the folder {folder} does not exist; expected a folder of pictures')
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        raise UserError(f'{folder} holds no picture ({", ".join(EXTENSIONS)})')
    return paths


def write_png(path: str | Path, image: np.ndarray) -> Path:
    """Write (H, W) or (H, W, 3) uint8 as PNG, whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    with atomic_write(path) as part:
        Image.fromarray(image).save(part, format='PNG')
    return path
