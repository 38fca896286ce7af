"""The recipe's images against timm's: equal where nothing is random, of the same distribution where something is."""
import copy
import random

import numpy as np
import pytest
import torch
from classifiers import build, samples
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS, init_default_scope
from mmpretrain.datasets.transforms import auto_augment as ours
from PIL import Image
from timm.data import auto_augment as theirs
from timm.data import create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation

RECIPE = Config.fromfile('configs/classification/repvit_m1_1_distill_300e.py')
TRAIN, TEST = (RECIPE[f'{key}_dataloader'].dataset.pipeline for key in ('train', 'test'))
# Rotation, shear and translation.
GEOMETRIC = (3, 11, 12, 13, 14)
AUGMENT = next(step for step in TRAIN if step.type == 'RandAugment')


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


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('index, name', enumerate(theirs._RAND_INCREASING_TRANSFORMS))
def test_each_operation_of_randaugment_does_what_timm_does(index, name, sign, monkeypatch):
    monkeypatch.setattr(theirs, '_randomly_negate', lambda value: sign * value)
    operation = theirs.AugmentOp(name, prob=1., magnitude=9, hparams=dict(
        theirs._HPARAMS_DEFAULT, img_mean=(124, 116, 104), interpolation=Image.BICUBIC))
    expected = np.asarray(operation(Image.fromarray(photo()))).astype(int)
    policy = transform({**AUGMENT, 'magnitude_std': 0}).transforms[index]
    # Geometric operations go the other way for the same sign; either sign is drawn half of the time.
    policy.prob, policy.random_negative_prob = 1., float((sign < 0) != (index in GEOMETRIC))
    result = policy(dict(img=np.ascontiguousarray(photo()[..., ::-1])))['img'][..., ::-1].astype(int)
    # Interpolation and rounding differ a little between OpenCV and PIL: at edges, which are few.
    difference = np.abs(result - expected)
    assert np.median(difference) <= 1 and difference.mean() < 4


def test_randaugment_draws_as_timm_does():
    augment = transform(AUGMENT)
    reference = theirs.rand_augment_transform('rand-m9-mstd0.5-inc1', dict(img_mean=(124, 116, 104)))
    assert augment.num_policies == reference.num_layers == 2
    assert len(augment.transforms) == len(reference.ops) == 15
    drawn = np.concatenate([augment.random_policy_indices() for _ in range(1500)])
    assert (np.bincount(drawn, minlength=15) / 3000 == pytest.approx(1 / 15, abs=0.02))
    assert {policy.prob for policy in augment.transforms} == {op.prob for op in reference.ops} == {0.5}
    assert {op.magnitude for op in reference.ops} == {AUGMENT.magnitude_level}
    rotate = next(policy for policy in augment.transforms if isinstance(policy, ours.Rotate))
    levels = [rotate.random_magnitude() / 30 * 10 for _ in range(1500)]
    op = next(op for op in reference.ops if op.name == 'Rotate')
    expected = [min(max(random.gauss(op.magnitude, op.magnitude_std), 0), 10) for _ in range(1500)]
    assert same_distribution(levels, expected)


def test_crops_are_of_the_same_distribution():
    cfg = next(step for step in TRAIN if step.type == 'RandomResizedCrop')
    assert cfg.interpolation == 'bicubic' and cfg.backend == 'pillow'
    crop, image = transform(cfg), np.zeros((300, 420, 3), np.uint8)
    drawn = np.array([crop.rand_crop_params(image) for _ in range(2000)])
    expected = np.array([RandomResizedCropAndInterpolation.get_params(
        Image.fromarray(image), (0.08, 1.), (3 / 4, 4 / 3)) for _ in range(2000)])
    for quantity in (*range(4), lambda boxes: boxes[:, 2] * boxes[:, 3], lambda boxes: boxes[:, 2] / boxes[:, 3]):
        values = [quantity(boxes) if callable(quantity) else boxes[:, quantity] for boxes in (drawn, expected)]
        assert same_distribution(*values)


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


def test_mixing_is_of_the_same_distribution():
    model_cfg = RECIPE.model
    assert model_cfg.head.loss.label_smooth_val == 0.1
    mine = preprocessor(erase_prob=0., batch_augments=copy.deepcopy(model_cfg.train_cfg))
    reference = Mixup(mixup_alpha=0.8, cutmix_alpha=1., switch_prob=0.5, label_smoothing=0.1, num_classes=2)
    mine.num_classes = 2
    kinds, parts = ([], []), ([], [])
    for _ in range(1200):
        images = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.)])
        mixed = mine(dict(inputs=images.byte(), data_samples=samples(torch.tensor([0, 1]))), training=True)
        record(kinds[0], parts[0], mixed['inputs'][0], mixed['data_samples'][0].gt_score[0].item())
        target_images, targets = reference(images.clone(), torch.tensor([0, 1]))
        record(kinds[1], parts[1], target_images[0], (targets[0, 0].item() - 0.05) / 0.9)
    # In our draw a batch of two is mixed with itself half of the time; that is left out of the comparison.
    assert np.mean(kinds[0]) == pytest.approx(0.5, abs=0.07) and np.mean(kinds[1]) == pytest.approx(0.5, abs=0.07)
    for kind in (False, True):
        drawn = [np.array(part)[np.array(cut) == kind] for part, cut in zip(parts, kinds, strict=True)]
        assert same_distribution(*drawn)


def record(kinds, parts, image, part):
    """Note whether it was CutMix (two values in the image at most) and the first label's part, unless it is all."""
    if 1e-4 < part < 1 - 1e-4:
        kinds.append(len(image.unique()) > 3 or image[0].std() > 1e-3)
        parts.append(part)


@pytest.mark.parametrize('rank', [0, 5])
def test_repeated_augmentation_draws_the_images_that_timm_draws(rank, monkeypatch):
    monkeypatch.setattr('mmpretrain.datasets.samplers.repeat_aug.get_dist_info', lambda: (rank, 8))
    data = list(range(5000))
    sampler = DATA_SAMPLERS.build(RECIPE.train_dataloader.sampler, default_args=dict(dataset=data, seed=0))
    reference = RepeatAugSampler(data, num_replicas=8, rank=rank)
    for epoch in (0, 3):
        sampler.set_epoch(epoch), reference.set_epoch(epoch)
        expected = list(reference)
        assert list(sampler)[:len(expected)] == expected
