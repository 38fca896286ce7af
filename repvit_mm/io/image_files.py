"""Which files are images: formats, suffixes, and the images of a folder."""
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import UserError
from .files import find_files

with suppress(ImportError):  # photos of iPhones, where this package is installed
    import pillow_heif
    pillow_heif.register_heif_opener()

Image.init()
_SUFFIXES = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'), 'PNG': ('.png',), 'BMP': ('.bmp',), 'GIF': ('.gif',),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm'), 'WEBP': ('.webp',), 'TIFF': ('.tif', '.tiff'), 'AVIF': ('.avif',),
    'HEIF': ('.heic', '.heif'), 'JPEG2000': ('.jp2',), 'MPO': ('.mpo',)}
#: Formats that the installed Pillow reads; EPS and others that would start a program are not among them.
IMAGE_FORMATS = tuple(name for name in _SUFFIXES if name in Image.OPEN)
#: Suffixes of image files, in lower case.
IMAGE_SUFFIXES = tuple(suffix for name in IMAGE_FORMATS for suffix in _SUFFIXES[name])


def choose_images(files: Iterable[Path], also: Iterable[str] = ()) -> tuple[list[Path], Counter[str]]:
    """Select the images among files.

    Args:
        files: Such as :func:`repvit_mm.io.files.find_files` returns.
        also: Further suffixes to select, in lower case.

    Returns:
        The images in the order of ``files``, and suffix -> number of the other files.
    """
    suffixes = {*IMAGE_SUFFIXES, *also}
    images, others = [], Counter()
    for path in files:
        if (suffix := path.suffix.lower()) in suffixes:
            images.append(path)
        else:
            others[suffix] += 1
    return images, others


def skipped_files(where: Any, others: Counter[str]) -> str:
    """A line for the files that :func:`choose_images` did not choose; empty if there are none."""
    kinds = ', '.join(f'{number} {suffix or "without suffix"}' for suffix, number in others.most_common(8))
    return f'{where}: skipped, not images: {kinds}' if others else ''


def list_images(folder: str | Path) -> list[Path]:
    """All images below a folder, sorted; other files are counted in the log.

    Raises:
        UserError: If the folder does not exist or holds no images.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f'the folder {folder} does not exist; expected a folder of images')
    images, others = choose_images(find_files(folder))
    if not images:
        raise UserError(f'{folder} holds no images ({", ".join(IMAGE_SUFFIXES)})')
    if others:
        from mmengine.logging import print_log  # imports torch
        print_log(skipped_files(folder, others), 'current', logging.WARNING)
    return sorted(images)
