"""Images to calibrate an int8 file on."""
from pathlib import Path
from typing import NamedTuple

from ..errors import ExportError
from ..io.image_files import list_images
from ..io.images import check_image

#: Fewer images do not show the range of a map; more take time and change nothing.
LEAST, MOST = 8, 300
#: Every fourth image is held out.
EVERY = 4


class Images(NamedTuple):
    """Files to calibrate on, and files held out to judge the result."""

    calibration: list[Path]
    held_out: list[Path]


def find_images(folder: str | Path) -> Images:
    """Find the images in a folder and its subfolders; evenly spaced ones if there are many.

    Raises:
        UserError: If the folder is missing, or has too few images, or one of them is unreadable.
    """
    paths = list_images(folder)
    if len(paths) < LEAST:
        raise ExportError(f'--calibrate {folder}: it holds {len(paths)} images, and at least {LEAST} are needed; some '
                          'hundred like those that the model will see are good')
    number = min(len(paths), MOST)
    paths = [paths[index * len(paths) // number] for index in range(number)]
    for path in paths:
        check_image(path)
    return Images([path for index, path in enumerate(paths) if index % EVERY], paths[::EVERY])


class Quantisation(NamedTuple):
    """Calibration and judgement of an int8 file.

    Attributes:
        images: See :func:`find_images`.
        data_root: Path of the config's test data; None for the config's own.
        allow_loss: Write the file in spite of any loss.
    """

    images: Images
    data_root: str | None = None
    allow_loss: bool = False
