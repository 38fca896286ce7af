"""Pictures on which exported files are compared with their models."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..io.images import Normalisation, read_image


def load_pictures(shape: Sequence[int], number: int, paths: Sequence[str | Path] = ()) -> np.ndarray:
    """Read pictures and scale them to one size.

    Args:
        shape: Height and width, in pixels.
        number: How many; the pictures are repeated in turn, each time with a tighter crop.
        paths: Files; by default the photograph of Grace Hopper that comes with matplotlib.

    Returns:
        RGB, uint8, (number, height, width, 3).

    Raises:
        UserError: If a file cannot be read.
    """
    if not paths:
        from matplotlib.cbook import get_sample_data
        paths = [get_sample_data('grace_hopper.jpg', asfileobj=False)]
    pictures = []
    for index in range(number):
        path, turn = paths[index % len(paths)], index // len(paths)
        picture = Image.fromarray(read_image(path))
        margin = min(turn, 4) / 10
        box = (margin * picture.width, margin * picture.height,
               (1 - margin) * picture.width, (1 - margin) * picture.height)
        pictures.append(np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box)))
    return np.stack(pictures)


def to_pixels(pictures: np.ndarray, channels: str) -> Tensor:
    """RGB (N, H, W, 3) -> float (N, 3, H, W) from 0 to 255, in the given channel order."""
    if channels == 'BGR':
        pictures = pictures[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float()


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """(N, 3, H, W) from 0 to 255 -> the input of the model."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    return (pixels - mean) / std
