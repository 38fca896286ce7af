"""The Semantic FPN configs are the published recipe, and build models of the published shape."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from torch import nn

from repvit_mm import ARCHS
from repvit_mm.checkpoints import published
from repvit_mm.datasets.shapes import CLASSES
from repvit_mm.engine.config import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'
ARCH_NAMES = ('m0_6', 'm0_9', 'm1_0', 'm1_1', 'm1_5', 'm2_3', 'm2', 'm3')

# The published log of a Semantic FPN run: first iteration that is logged, every 50, with this rate of 5 decimals.
LOGGED = {50: 20, 1150: 19, 3350: 18, 5550: 17, 7750: 16, 9950: 15, 12100: 14, 14250: 13, 16400: 12, 18500: 11,
          20600: 10, 22650: 9, 24700: 8, 26700: 7, 28700: 6, 30650: 5, 32550: 4, 34400: 3, 36200: 2, 37950: 1, 39500: 0}


@pytest.fixture(autouse=True)
def mmseg_scope():
    pytest.importorskip('mmseg')
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def read(name: str) -> Config:
    return load_config(CONFIGS / f'{name}.py')


def build(cfg: Config) -> nn.Module:
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('arch', ARCH_NAMES)
def test_every_architecture_has_the_published_recipe(arch):
    cfg = read(f'segmentation/fpn_repvit_{arch}')
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch) == ('RepViT', arch)
    assert (backbone.feature_tap, backbone.norm_eval) == ('stage_end', True)
    weights = f'{arch}_distill_{450 if arch == "m2_3" else 300}e'
    assert weights in published() and backbone.init_cfg.checkpoint == f'repvit://{weights}'
    assert tuple(cfg.model.neck.in_channels) == ARCHS[arch].widths
    assert (cfg.model.decode_head.type, cfg.model.decode_head.num_classes) == ('FPNHead', 150)
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (4, 8 * 4)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40000, 4000)
    assert cfg.model.test_cfg.mode == 'whole' and not cfg.model.get('pretrained')


def test_learning_rates_are_those_of_the_published_log():
    cfg = read('segmentation/fpn_repvit_m1_1')
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(setting, optimizer=optimizer)) for setting in cfg.param_scheduler]
    logged = {}
    for iteration in range(1, cfg.train_cfg.max_iters + 1):  # the rate of a step is logged after it
        rate = optimizer.param_groups[0]['lr']
        if iteration % 50 == 0:
            logged.setdefault(round(rate, 5), iteration)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert {iteration: round(rate * 1e5) for rate, iteration in logged.items()} == LOGGED
    assert optimizer.param_groups[0]['lr'] == pytest.approx(1e-6)


def test_adamw_decays_every_parameter():
    cfg = read('segmentation/fpn_repvit_m0_6')
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert {(group['lr'], group['weight_decay']) for group in optimizer.param_groups} == {(2e-4, 1e-4)}
    assert sum(len(group['params']) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert cfg.optim_wrapper.get('clip_grad') is None


@pytest.mark.parametrize(('size', 'expected'), [
    ((500, 375), (704, 512)),   # 683 x 512, and up
    ((375, 500), (512, 704)),
    ((512, 512), (512, 512)),
    ((2500, 500), (2048, 416)),  # the long side ends at 2048: 2048 x 410, and up
])
def test_images_are_tested_at_multiples_of_32(size, expected, tmp_path):
    from PIL import Image
    image, label = tmp_path / 'image.jpg', tmp_path / 'label.png'
    Image.new('RGB', size).save(image)
    Image.new('L', size, 7).save(label)
    pipeline = Compose(read('segmentation/fpn_repvit_m1_1').test_dataloader.dataset.pipeline)
    result = pipeline(dict(img_path=str(image), seg_map_path=str(label), reduce_zero_label=True, seg_fields=[]))
    assert tuple(result['inputs'].shape[:0:-1]) == expected
    # Ground truth stays as it is, but for the classes: ADE20K counts them from 1.
    truth = result['data_samples'].gt_sem_seg.data
    assert tuple(truth.shape[:0:-1]) == size and truth.unique().tolist() == [6]


def test_multi_scale_testing_scales_the_single_scale_test():
    cfg = read('segmentation/fpn_repvit_m1_1')
    resizes, multiples, flips, *_ = cfg.tta_pipeline[1].transforms
    ratios = [scale[1] / 512 for scale in (step.scale for step in resizes)]
    assert ratios == [0.5, 0.75, 1, 1.25, 1.5, 1.75] and [step.prob for step in flips] == [0, 1]
    assert all(tuple(step.scale) == (2048 * ratio, 512 * ratio) for step, ratio in zip(resizes, ratios, strict=True))
    assert [step.size_divisor for step in multiples] == [32]


def fpn_cost(widths: tuple[int, ...], side: int) -> tuple[int, int]:
    """Parameters and multiply-adds of FPN and FPNHead of 256 and 128 channels, 150 classes, by hand."""
    pixels = [(side // stride) ** 2 for stride in (4, 8, 16, 32)]
    parameters = sum(width * 256 + 256 for width in widths) + 4 * (256 * 256 * 9 + 256)
    macs = sum((width * 256 + 256 * 256 * 9) * area for width, area in zip(widths, pixels, strict=True))
    for level, area in enumerate(pixels):
        for number in range(max(1, level)):  # each is followed by an upsampling by 2, but on the first level
            inputs = 128 if number else 256
            parameters += inputs * 128 * 9 + 2 * 128
            macs += inputs * 128 * 9 * area * 4 ** number
    return parameters + 128 * 150 + 150, macs + 128 * 150 * pixels[0]


def segformer_cost(widths: tuple[int, ...], side: int) -> tuple[int, int]:
    """Parameters and multiply-adds of SegFormer's head of 128 channels, 150 classes, by hand."""
    pixels = [(side // stride) ** 2 for stride in (4, 8, 16, 32)]
    parameters = sum(width * 128 + 2 * 128 for width in widths) + 4 * 128 * 128 + 2 * 128 + 128 * 150 + 150
    macs = sum(width * 128 * area for width, area in zip(widths, pixels, strict=True))
    return parameters, macs + (4 * 128 * 128 + 128 * 150) * pixels[0]


@pytest.mark.parametrize(('name', 'cost'), [('fpn_repvit_m0_9', fpn_cost), ('segformer_repvit_m0_9', segformer_cost)])
def test_the_decoders_cost_what_the_table_says(name, cost):
    from repvit_mm.analysis import count
    from repvit_mm.models.inference import build_inference_model
    whole = count(build_inference_model(CONFIGS / 'segmentation' / f'{name}.py'), (512, 512))
    parts = {part.name: part for part in whole.children}
    backbone = parts.pop('backbone')
    assert backbone.parameters == 4_717_792
    expected = cost(ARCHS['m0_9'].widths, 512)
    assert (sum(part.parameters for part in parts.values()), sum(part.macs for part in parts.values())) == expected


@pytest.mark.parametrize('name', ['segmentation/fpn_repvit_m0_6', 'segmentation/segformer_repvit_m0_9',
                                  'segmentation/fpn_repvit_m0_6_camvid', 'quickstart/fpn_repvit_m0_6_shapes',
                                  'quickstart/segformer_repvit_m0_9_shapes'])
def test_a_segmentor_trains_a_step_on_any_size(name):
    cfg = read(name)
    classes = len((cfg.train_dataloader.dataset.get('metainfo') or {}).get('classes', range(150)))
    model = build(cfg).train()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    truth = torch.arange(80 * 72).view(1, 80, 72) % classes
    losses = model.loss(torch.randn(2, 3, 80, 72), [SegDataSample(gt_sem_seg=PixelData(data=truth)) for _ in range(2)])
    losses['decode.loss_ce'].backward()
    assert losses['decode.loss_ce'].isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    frozen = [norm.training for norm in model.backbone.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert any(frozen) != model.backbone.norm_eval
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 70, 90)).shape[1] == classes


def test_classes_of_the_shapes_are_those_that_are_drawn():
    metainfo = read('quickstart/fpn_repvit_m0_6_shapes').val_dataloader.dataset.metainfo
    assert tuple(metainfo.classes) == ('background', *CLASSES) and len(np.unique(metainfo.palette, axis=0)) == 9
