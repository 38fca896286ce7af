"""The recipe's images against timm's: equal where nothing is random, of the same distribution where something is."""
import copy
import random

import numpy as np
import pytest
import torch
from classifiers import build
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing

RECIPE = Config.fromfile('configs/classification/repvit_m1_1_distill_300e.py')
TRAIN, TEST = (RECIPE[f'{key}_dataloader'].dataset.pipeline for key in ('train', 'test'))


@pytest.fixture(autouse=True)
def seeds():
    init_default_scope('mmpretrain')
    random.seed(0), np.random.seed(0), torch.manual_seed(0)


def transform(cfg):
    return TRANSFORMS.build(copy.deepcopy(cfg))


def preprocessor(**settings):
    cfg = {**RECIPE.data_preprocessor, 'num_classes': 10, **settings}
    return build(cfg)


def same_distribution(first, second):
    """Two-sample Kolmogorov-Smirnov test at the level of 0.1 %."""
    first, second = np.sort(first), np.sort(second)
    both = np.concatenate([first, second])
    distance = np.abs(np.searchsorted(first, both, 'right') / len(first)
                      - np.searchsorted(second, both, 'right') / len(second)).max()
    return distance < 1.95 * np.sqrt(1 / len(first) + 1 / len(second))


def photo(height=70, width=90):
    """Smooth colours with some edges, as photos have; RGB."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x, 3 * y, x + y], -1) % 256
    image[20:40, 30:60] = (200, 30, 90)
    return image.astype(np.uint8)


def test_the_test_transforms_equal_timm(tmp_path):
    Image.fromarray(photo(300, 410)).save(tmp_path / 'a.png')
    results = dict(img_path=str(tmp_path / 'a.png'))
    for step in TEST:
        results = transform(step)(results)
    inputs = preprocessor()(dict(inputs=results['inputs'][None]))['inputs'][0]
    reference = create_transform(224, interpolation='bicubic', crop_pct=224 / 256)
    torch.testing.assert_close(inputs, reference(Image.open(tmp_path / 'a.png')), rtol=0, atol=1e-5)


def test_the_recipe_has_timms_settings():
    """rand-m9-mstd0.5-inc1, bicubic crops, Mixup 0.8 or CutMix 1.0, three repeats; mmpretrain does the rest."""
    crop, augment = (next(step for step in TRAIN if step.type == kind) for kind in ('RandomResizedCrop', 'RandAugment'))
    assert (crop.scale, crop.interpolation, crop.backend) == (224, 'bicubic', 'pillow')
    assert (augment.policies, augment.num_policies, augment.total_level) == ('timm_increasing', 2, 10)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert augment.hparams == dict(pad_val=[104, 116, 124], interpolation='bicubic')  # BGR
    assert RECIPE.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)]
    assert RECIPE.model.head.loss.label_smooth_val == 0.1
    assert RECIPE.train_dataloader.sampler == dict(type='RepeatAugSampler', num_repeats=3)


def test_erasing_is_of_the_same_distribution():
    zeros = torch.zeros(1500, 3, 24, 32)
    erased = zeros.clone()
    erasing = preprocessor().erasing
    for image in erased:
        erasing(image)
    expected = zeros.clone()
    reference = RandomErasing(probability=0.25, mode='pixel', device='cpu')
    for image in expected:
        reference(image)
    quantities = []
    for images in (erased, expected):
        masks = (images != 0).any(1)
        boxes = [mask.nonzero() for mask in masks if mask.any()]
        corners = torch.stack([torch.cat([box.amin(0), box.amax(0)]) for box in boxes]).numpy()
        sizes = corners[:, 2:] - corners[:, :2] + 1
        assert all(len(box) == height * width for box, (height, width) in zip(boxes, sizes, strict=True))
        noise = images[images != 0].numpy()
        quantities.append((len(boxes), [*corners.T, sizes[:, 0] * sizes[:, 1], sizes[:, 0] / sizes[:, 1], noise]))
    assert quantities[0][0] / 1500 == pytest.approx(0.25, abs=0.04)
    for ours_, theirs_ in zip(quantities[0][1], quantities[1][1], strict=True):
        assert same_distribution(ours_, theirs_)


def test_nothing_is_erased_in_a_test():
    inputs = torch.full((8, 3, 16, 16), 100, dtype=torch.uint8)
    result = preprocessor(erase_prob=1.)(dict(inputs=inputs), training=False)['inputs']
    assert result.std(dim=(0, 2, 3)).max() < 1e-5
