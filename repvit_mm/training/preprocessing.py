"""Preprocessing of batches: normalisation, erasing, mixing."""
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor
from torchvision.transforms import RandomErasing


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
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                 pad_size_divisor: int = 1, pad_value: float = 0, to_rgb: bool = False, to_onehot: bool = False,
                 num_classes: int | None = None, batch_augments: Mapping | None = None, erase_prob: float = 0.):
        super().__init__(mean, std, pad_size_divisor, pad_value, to_rgb, to_onehot, num_classes, batch_augments)
        self.erasing = RandomErasing(erase_prob, (0.02, 1 / 3), (0.3, 1 / 0.3), 'random', inplace=True)

    def forward(self, data: dict, training: bool = False) -> dict:
        """See :class:`mmpretrain.models.ClsDataPreprocessor`."""
        data = super().forward(data, training=False)
        if training:
            for image in data['inputs']:
                self.erasing(image)
            if self.batch_augments is not None:
                samples = data['data_samples']
                scores = torch.stack([sample.gt_score for sample in samples])
                data['inputs'], scores = self.batch_augments(data['inputs'], scores)
                for sample, score in zip(samples, scores, strict=True):
                    sample.set_gt_score(score)
        return data
