"""Images on which exported files are compared with their models."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..io.images import Normalisation, read_image


def load_images(shape: Sequence[int], number: int, paths: Sequence[str | Path] = ()) -> np.ndarray:
    """Read images and scale them to one size.

    Args:
        shape: Height and width, in pixels.
        number: How many; files are repeated in turn, each time with a tighter crop.
        paths: Image files; by default the photograph of Grace Hopper that comes with matplotlib.

    Returns:
        RGB, uint8, (number, height, width, 3).

    Raises:
        UserError: If a file is missing or unreadable.
    """
    from PIL import Image
    if not paths:
        from matplotlib.cbook import get_sample_data
        paths = [get_sample_data('grace_hopper.jpg', asfileobj=False)]
    images = []
    for index in range(number):
        image = Image.fromarray(read_image(paths[index % len(paths)]))
        margin = min(index // len(paths), 4) / 10
        box = (margin * image.width, margin * image.height, (1 - margin) * image.width, (1 - margin) * image.height)
        images.append(np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box)))
    return np.stack(images)


def to_input(images: np.ndarray, normalisation: Normalisation) -> Tensor:
    """RGB, uint8, (N, H, W, 3) -> the input of a model, (N, 3, H, W)."""
    if normalisation.channels == 'BGR':
        images = images[..., ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation[:2])
    return (pixels - mean) / std


def load_inputs(shape: Sequence[int], number: int, normalisation: Normalisation,
                paths: Sequence[str | Path] = ()) -> Tensor:
    """The images of :func:`load_images` as the input of a model."""
    return to_input(load_images(shape, number, paths), normalisation)
