"""Reading pictures of every kind as what SAM takes: 8-bit RGB, upright."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..files import atomic_write

#: Endings of the names under which pictures are looked for in folders.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        (H, W, 3) uint8 RGB; see :func:`to_rgb` for what becomes of other kinds.

    Raises:
        UserError: If the file is missing, is no picture, or is damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'there is no picture {path}' if not path.exists() else f'{path} is no file; give a picture')
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise UserError(f'{path} is not a picture in a format that Pillow reads (JPEG, PNG, ...)') from error
    except Image.DecompressionBombError as error:
        raise UserError(f'{path} is too large: {error}') from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise UserError(f'{path} cannot be read, the file is damaged or cut off ({error})') from error
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Turn any picture into (H, W, 3) uint8 RGB.

    It is turned upright by its EXIF orientation, transparent parts are laid on white, greyscale becomes grey RGB, and
    16-bit values are scaled to 8 bits.

    Raises:
        UserError: If its values are floating-point numbers, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise UserError('its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits')
    if image.mode.startswith('I'):  # 16 bits, which some versions of Pillow and some files hold in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f'its values go from {values.min()} to {values.max()}; save it with 8 or 16 bits')
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if 'A' in image.getbands() or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.array(image.convert('RGB'))


def list_images(folder: str | Path) -> list[Path]:
    """Every picture in a folder and the folders in it, sorted.

    Raises:
        UserError: If there is no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}; a folder of pictures is expected')
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f'there is no picture ({", ".join(SUFFIXES)}) in {folder}')
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
