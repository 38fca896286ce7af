"""Pictures on which exported files are compared with their models."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ExportError
from ..io.images import Normalisation


def load_pictures(shape: Sequence[int], number: int, paths: Sequence[str | Path] = ()) -> np.ndarray:
    """Read pictures and scale them to one size.

    Args:
        shape: Height and width, in pixels.
        number: How many; the pictures are repeated in turn, each time with a tighter crop.
        paths: Files that Pillow can read; by default the photograph of Grace Hopper that comes with matplotlib.

    Returns:
        RGB, uint8, (number, height, width, 3).

    Raises:
        ExportError: If a file is missing, or Pillow cannot read it.
    """
    from PIL import Image
    if not paths:
        from matplotlib.cbook import get_sample_data
        paths = [get_sample_data('grace_hopper.jpg', asfileobj=False)]
    pictures = []
    for index in range(number):
        path, turn = paths[index % len(paths)], index // len(paths)
        picture = read_picture(path)
        margin = min(turn, 4) / 10
        box = (margin * picture.width, margin * picture.height,
               (1 - margin) * picture.width, (1 - margin) * picture.height)
        pictures.append(np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box)))
    return np.stack(pictures)


def read_picture(path: str | Path) -> Any:
    """Read a picture with Pillow, in RGB.

    Raises:
        ExportError: If the file is missing, or Pillow cannot read it.
    """
    from PIL import Image
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            raise OSError('it is a folder; name its files' if Path(path).is_dir() else 'there is no such file')
        with Image.open(path) as file:
            return file.convert('RGB')
    except OSError as error:
        raise ExportError(f'{path} cannot be read as a picture: {error}') from error


def to_pixels(pictures: np.ndarray, channels: str) -> Tensor:
    """RGB (N, H, W, 3) -> float (N, 3, H, W) from 0 to 255, in the given channel order."""
    if channels == 'BGR':
        pictures = pictures[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float()


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """(N, 3, H, W) from 0 to 255 -> the input of the model."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    return (pixels - mean) / std
