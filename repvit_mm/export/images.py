"""Images on which exported files are compared with their models."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..io.images import Normalisation, read_image


def or_photograph(paths: Sequence[str | Path]) -> Sequence[str | Path]:
    """Image files; without any, the photograph of Grace Hopper that comes with matplotlib."""
    from matplotlib.cbook import get_sample_data
    return paths or [get_sample_data('grace_hopper.jpg', asfileobj=False)]


def load_images(shape: Sequence[int], number: int, paths: Sequence[str | Path] = ()) -> np.ndarray:
    """Read images and scale them to one size.

    Args:
        shape: Height and width, in pixels.
        number: How many; files are repeated in turn, each time with a tighter crop.
        paths: See :func:`or_photograph`.

    Returns:
        RGB, uint8, (number, height, width, 3).

    Raises:
        UserError: If a file is missing or unreadable.
    """
    from PIL import Image
    paths, images = or_photograph(paths), []
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


def load_fitted(path: str | Path, shape: Sequence[int], keep_ratio: bool,
                normalisation: Normalisation) -> tuple[Tensor, tuple[int, int]]:
    """An image as an exported file takes it, and its height and width before padding.

    Args:
        path: The image file.
        shape: Height and width of the file's input, in pixels.
        keep_ratio: Scale the image to fit, with zeros at the right and the bottom.
        normalisation: Of the model.
    """
    size = tuple(shape)
    if keep_ratio:
        given = read_image(path).shape[:2]
        scale = min(new / old for new, old in zip(shape, given, strict=True))
        size = tuple(max(1, round(scale * length)) for length in given)
    image = load_inputs(size, 1, normalisation, [path])
    return F.pad(image, (0, shape[1] - size[1], 0, shape[0] - size[0])), size
