"""Normalisation of images."""
from typing import NamedTuple


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

