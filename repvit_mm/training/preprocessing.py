"""Preprocessing of batches: normalisation, erasing, mixing."""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor

from ..errors import ConfigError


@MODELS.register_module()
class ErasingDataPreprocessor(ClsDataPreprocessor):
    """Normalisation, random erasing, then mixup or CutMix, as in the published runs.

    Erasing (https://arxiv.org/abs/1708.04896) fills a rectangle with standard normal noise for each pixel and channel.
    That has to follow the normalisation: mmpretrain's transform, before it, rounds the noise to 0 ... 255.

    Args:
        mean: Mean of each channel, 0 to 255.
        std: Standard deviation of each channel.
        pad_size_divisor: See :class:`mmpretrain.models.ClsDataPreprocessor`, like the following.
        pad_value: Value of padded pixels.
        to_rgb: Whether to reverse the order of the channels.
        to_onehot: Whether to convert labels to scores without mixing, too.
        num_classes: Number of classes, needed for scores.
        batch_augments: Mixup and CutMix, the model's ``train_cfg``.
        erase_prob: Probability of erasing a rectangle of an image.
        erase_area: Smallest and largest area of the rectangle, relative to the image.
        erase_aspect: Smallest ratio of its height to its width; the largest is the inverse.

    Raises:
        ConfigError: For an invalid probability, area or ratio.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                 pad_size_divisor: int = 1, pad_value: float = 0, to_rgb: bool = False, to_onehot: bool = False,
                 num_classes: int | None = None, batch_augments: Mapping | None = None, erase_prob: float = 0.,
                 erase_area: tuple[float, float] = (0.02, 1 / 3), erase_aspect: float = 0.3):
        super().__init__(mean, std, pad_size_divisor, pad_value, to_rgb, to_onehot, num_classes, batch_augments)
        if not 0 <= erase_prob <= 1 or not 0 < erase_area[0] <= erase_area[1] < 1 or not 0 < erase_aspect <= 1:
            raise ConfigError(f'erase_prob={erase_prob}, erase_area={erase_area}, erase_aspect={erase_aspect} must be '
                              'a probability, two ascending fractions below 1, and a ratio up to 1')
        self.erase_prob, self.erase_area, self.erase_aspect = erase_prob, erase_area, erase_aspect

    def forward(self, data: dict, training: bool = False) -> dict:
        """See :class:`mmpretrain.models.ClsDataPreprocessor`."""
        data = super().forward(data, training=False)
        if training:
            self._erase(data['inputs'])
            if self.batch_augments is not None:
                samples = data['data_samples']
                scores = torch.stack([sample.gt_score for sample in samples])
                data['inputs'], scores = self.batch_augments(data['inputs'], scores)
                for sample, score in zip(samples, scores, strict=True):
                    sample.set_gt_score(score)
        return data

    def _erase(self, inputs: Tensor) -> None:
        for image in inputs:
            if np.random.rand() < self.erase_prob and (box := self._draw_box(*image.shape[1:])):
                top, left, height, width = box
                image[:, top:top + height, left:left + width].normal_()

    def _draw_box(self, image_height: int, image_width: int) -> tuple[int, int, int, int] | None:
        """Top, left, height, width; None if ten rectangles in a row do not fit."""
        bound = math.log(self.erase_aspect)
        for _ in range(10):
            area = np.random.uniform(*self.erase_area) * image_height * image_width
            aspect = math.exp(np.random.uniform(bound, -bound))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < image_height and width < image_width:
                return (np.random.randint(image_height - height + 1), np.random.randint(image_width - width + 1),
                        height, width)
        return None
