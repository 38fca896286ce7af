"""The detection configs against the published recipe and its log."""
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from torch import nn

from repvit_mm import ARCHS
from repvit_mm.checkpoints import published

pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[1] / 'configs' / 'detection'
FINAL_ARCHS = [name for name, spec in ARCHS.items() if not spec.first_version]
#: The paper's first version had Mask R-CNN with m3.
ALL_ARCHS = [*FINAL_ARCHS, 'm2', 'm3']
#: Recipes without a published run.
OWN_RECIPES = ('finetune_maskrcnn_repvit_m1_1', 'rtmdet-ins_repvit_m0_9', 'rtmdet_repvit_m0_9')
#: The same on the embedded data set.
SMALL_RECIPES = ('../quickstart/rtmdet-ins_repvit_m0_9_shapes', '../quickstart/rtmdet_repvit_m0_9_shapes')
ITERATIONS = 7330  # of an epoch: 117,266 images with objects, 16 at a time

#: (epoch, iteration, learning rate) from the log of a published run, which rounds to five decimals.
LOGGED = [
    *((1, 50 * n, 2e-5 * n) for n in range(1, 11)), (1, 550, 2e-4), (1, 1000, 2e-4), (1, 7300, 2e-4),
    (2, 50, 2e-4), (4, 3650, 2e-4), (8, 50, 2e-4), (8, 7300, 2e-4),
    (9, 50, 2e-5), (9, 7300, 2e-5), (10, 3650, 2e-5), (11, 7300, 2e-5),
    (12, 50, 0.), (12, 7300, 0.),
]


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@cache
def read_once(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def read_named(name):
    return deepcopy(read_once(name))


def read(arch):
    return read_named(f'maskrcnn_repvit_{arch}')


def learning_rates(cfg, steps):
    """Learning rate of each (epoch, iteration), both counted from 1, as mmengine's hook steps the schedulers."""
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)) for scheduler in cfg.param_scheduler]
    found = {}
    optimizer.step()
    for epoch in range(1, cfg.train_cfg.max_epochs + 1):
        for iteration in range(1, ITERATIONS + 1):
            if (epoch, iteration) in steps:
                found[epoch, iteration] = optimizer.param_groups[0]['lr']
            if epoch == 1 and iteration <= cfg.param_scheduler[0].end:
                schedulers[0].step()
        schedulers[1].step()
    return found


def test_learning_rates_are_those_of_the_published_log():
    cfg = read('m1_1')
    assert cfg.train_cfg.max_epochs == 12
    assert [scheduler.by_epoch for scheduler in cfg.param_scheduler] == [False, True]
    found = learning_rates(cfg, {(epoch, iteration) for epoch, iteration, _ in LOGGED} | {(1, 1), (12, 1)})
    for epoch, iteration, logged in LOGGED:
        assert abs(found[epoch, iteration] - logged) <= 5e-6, (epoch, iteration)
    # What the log's five decimals hide: the start of the warm-up, and the last step.
    assert found[1, 1] == pytest.approx(2e-4 * 1e-6)
    assert found[12, 1] == pytest.approx(2e-6)


def test_weight_decay_reaches_every_parameter():
    cfg = read('m1_1')
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert [group['weight_decay'] for group in optimizer.param_groups] == [0.05]
    assert sum(len(group['params']) for group in optimizer.param_groups) == 6
    assert 'clip_grad' not in cfg.optim_wrapper


def test_recipe_is_the_published_one():
    cfg = read('m1_1')  # the rest is mmdet's, see test_zoo_dense.py
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)


@pytest.mark.parametrize('arch', ALL_ARCHS)
def test_architecture(arch):
    cfg = read(arch)
    backbone = MODELS.build({**cfg.model.backbone, 'init_cfg': None})
    assert list(backbone.out_channels) == cfg.model.neck.in_channels
    assert backbone.arch == arch and backbone.norm_eval
    assert backbone.feature_tap == 'penultimate' and backbone.out_indices == (0, 1, 2, 3)
    assert backbone.out_strides == tuple(cfg.model.roi_head.bbox_roi_extractor.featmap_strides)
    init_cfg = cfg.model.backbone.init_cfg
    assert init_cfg.type == 'Pretrained'
    assert init_cfg.checkpoint == f'repvit://{arch}_distill_{"450e" if arch == "m2_3" else "300e"}'
    assert init_cfg.checkpoint.removeprefix('repvit://') in published()


@pytest.mark.parametrize('arch', [name for name in ALL_ARCHS if name != 'm1_1'])
def test_architectures_differ_in_nothing_else(arch):
    cfg, reference = read(arch), read('m1_1')
    for one in (cfg, reference):
        for key in ('arch', 'init_cfg'):
            del one.model.backbone[key]
        del one.model.neck['in_channels']
    assert cfg.to_dict() == reference.to_dict()


def test_every_config_is_of_a_known_architecture_or_recipe():
    published_recipe = {f'maskrcnn_repvit_{name}' for name in ALL_ARCHS}
    assert {path.stem for path in CONFIGS.glob('*.py')} == published_recipe | set(OWN_RECIPES)


@pytest.mark.parametrize('name', ['maskrcnn_repvit_m1_1', *OWN_RECIPES])
def test_images_are_normalised_as_the_weights_expect(name):
    """Images are read as BGR; the weights were trained on RGB, less ImageNet's mean, over its deviation."""
    cfg = read_named(name)
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    image = (mean + torch.tensor([3., 2., 1.]) * deviation).flip(0).view(3, 1, 1).expand(3, 32, 32)
    inputs = MODELS.build(cfg.model.data_preprocessor)(dict(inputs=[image], data_samples=None))['inputs']
    torch.testing.assert_close(inputs[0, :, 5, 5], torch.tensor([3., 2., 1.]))


@pytest.mark.parametrize('name', ['rtmdet_repvit_m0_9', 'rtmdet-ins_repvit_m0_9'])
def test_rtmdet_takes_the_maps_of_its_strides_and_scales_its_learning_rate(name):
    cfg = read_named(name)
    backbone = MODELS.build({**cfg.model.backbone, 'init_cfg': None})
    assert list(backbone.out_channels) == cfg.model.neck.in_channels
    assert list(backbone.out_strides) == cfg.model.bbox_head.anchor_generator.strides
    assert cfg.model.backbone.init_cfg.checkpoint.removeprefix('repvit://') in published()
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size


def test_rtmdet_ins_on_the_shapes_is_the_same_but_for_its_classes():
    ours, small = read_named('rtmdet-ins_repvit_m0_9').model, read_named(SMALL_RECIPES[0]).model
    assert (ours.bbox_head.pop('num_classes'), small.bbox_head.pop('num_classes')) == (80, 8)
    assert ours.backbone.pop('init_cfg') and small.backbone.pop('init_cfg') is None
    assert ours.to_dict() == small.to_dict()


def test_fine_tuning_starts_from_a_whole_detector_and_spares_its_backbone():
    cfg = read_named('finetune_maskrcnn_repvit_m1_1')
    assert cfg.load_from.removeprefix('repvit://') in published() and cfg.model.backbone.init_cfg is None
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 2), neck=nn.Linear(2, 2)))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    assert rates[id(model.backbone.weight)] == pytest.approx(rates[id(model.neck.weight)] / 10)
    published_recipe = read('m1_1')
    assert rates[id(model.neck.weight)] < published_recipe.optim_wrapper.optimizer.lr
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end < published_recipe.train_cfg.max_epochs
    # The same detector: otherwise the weights would not fit.
    del cfg.model.backbone['init_cfg'], published_recipe.model.backbone['init_cfg']
    assert cfg.model.to_dict() == published_recipe.model.to_dict()


@pytest.mark.parametrize('name', ['maskrcnn_repvit_m0_6', *OWN_RECIPES, *SMALL_RECIPES])
def test_detector_builds_and_learns(name):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    cfg = read_named(name)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {not cfg.model.backbone.get('norm_eval', False)}
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8., 8., 48., 40.]]), labels=torch.tensor([3]))
    if 'segm' in cfg.val_evaluator.metric:
        mask = torch.zeros(1, 64, 64)
        mask[:, 8:40, 8:48] = 1
        sample.gt_instances.masks = BitmapMasks(mask.numpy(), 64, 64)
    data = model.data_preprocessor(dict(inputs=[torch.zeros(3, 64, 64)], data_samples=[sample]), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused  # distributed training has no find_unused_parameters
