"""A step of the recipe against the same step written with timm's parts, on timm's model with the same weights."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classifiers import CLASSES, build, classifier, config, samples, timm_twin
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from oracles import TINY
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV2
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from repvit_mm import RepViT
from repvit_mm.checkpoints import convert_state_dict
from repvit_mm.errors import ConfigError
from repvit_mm.training import ModelEmaHook
from repvit_mm.training.optim import parameter_groups

RECIPE = Config.fromfile('configs/classification/repvit_m1_1_distill_300e.py')


def wrapper_of(model, kind='OptimWrapper'):
    cfg = RECIPE.optim_wrapper.copy()
    cfg.type = kind
    return build_optim_wrapper(model, cfg)


def by_our_names(twin, values):
    """State of timm's model, under our names."""
    return convert_state_dict({name: values(tensor) for name, tensor in twin.named_parameters()})


class Teacher(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :CLASSES] * 5


def taught_classifier():
    model = classifier(distillation=True, teacher=dict(model='set below'),
                       **{key: RECIPE.model[key] for key in ('distill_type', 'distill_weight')}).double().train()
    model.teacher.model = Teacher()
    return model


def same(name, result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-10, msg=lambda message: f'{name}: {message}')


def test_two_steps_equal_timm():
    model = taught_classifier()
    twin = timm_twin(model)
    twin.set_distilled_training(True)
    runner = SimpleNamespace(model=model, _resume=False)
    ema = ModelEmaHook(decay=next(h for h in RECIPE.custom_hooks if h.type == 'ModelEmaHook').decay)
    ema.before_train(runner)
    ema_twin = ModelEmaV2(twin, decay=0.99996)
    wrapper = wrapper_of(model)
    optimizer = create_optimizer_v2(twin, 'adamw', lr=4e-3, weight_decay=0.025)
    criterion = SoftTargetCrossEntropy()
    for seed in range(2):
        torch.manual_seed(seed)
        images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
        labels = torch.randint(CLASSES, (8, ))
        hard = nn.functional.one_hot(labels, CLASSES).double()

        mixed = 0.7 * hard + 0.3 * hard.flip(0)

        loss, _ = model.parse_losses(model.loss(images, samples(scores=mixed)))
        wrapper.zero_grad()
        wrapper.backward(loss)
        wrapper.step()
        ema.after_train_iter(runner, 0)

        scores, scores_dist = twin(images)
        # Targets are single precision, all else is double; rounded alike, they let all else be compared closely.
        target = mixed.float() * (1 - 0.1) + 0.1 / CLASSES
        torch.testing.assert_close(target, mixup_target(labels, CLASSES, lam=0.7, smoothing=0.1))
        taught = Teacher()(images).argmax(1)
        expected = 0.5 * criterion(scores, target.double()) + 0.5 * nn.functional.cross_entropy(scores_dist, taught)
        optimizer.zero_grad()
        expected.backward()
        unclipped = torch.cat([p.grad.flatten() for p in twin.parameters()])
        adaptive_clip_grad(twin.parameters(), clip_factor=0.02)
        optimizer.step()
        ema_twin.update(twin)

        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        clipped = by_our_names(twin, lambda p: p.grad)
        assert not torch.allclose(unclipped, torch.cat([p.grad.flatten() for p in twin.parameters()]))
        for name, parameter in model.named_parameters():
            same(name, parameter.grad, clipped[name])
        for ours, theirs in ((model, twin), (ema.average, ema_twin.module)):
            theirs = convert_state_dict(theirs.state_dict())
            for name, value in ours.state_dict().items():
                if value.dtype.is_floating_point:
                    same(name, value, theirs[name])


def test_the_same_parameters_decay_as_in_timm():
    model = classifier()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {group.get('weight_decay', 0.025): {names[id(p)] for p in group['params']}
              for group in parameter_groups(model)}
    twin = timm_twin(model)
    theirs = {id(p): name for name, p in convert_state_dict(dict(twin.named_parameters())).items()}
    optimizer = create_optimizer_v2(twin, 'adamw', lr=1., weight_decay=0.025)
    assert groups == {group['weight_decay']: {theirs[id(p)] for p in group['params']}
                      for group in optimizer.param_groups}
    assert len(wrapper_of(model).optimizer.param_groups) == 2
    model.backbone.requires_grad_(False)
    parameters = [p for group in parameter_groups(model) for p in group['params']]
    assert {id(p) for p in parameters} == {id(p) for p in model.head.parameters()}


RATES = dict(constructor='TwoGroupsConstructor', paramwise_cfg=dict(layer_decay_rate=0.5),
             optimizer=dict(type='SGD', lr=1., weight_decay=0.1))


def rates_of(model, wrapper):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups
            for p in group['params']}


@pytest.mark.parametrize('parent', ['mmpretrain', 'mmdet'])
def test_learning_rates_decay_from_layer_to_layer(parent):
    model = classifier() if parent == 'mmpretrain' else nn.ModuleDict(dict(detector=nn.ModuleDict(dict(
        backbone=RepViT(TINY), head=nn.Conv2d(40, 4, 1)))))
    rates = rates_of(model, build_optim_wrapper(model, RATES))
    assert len(rates) == len(list(model.parameters()))
    for name, (rate, decay) in rates.items():
        _, _, inside = name.partition('backbone.')
        depth = 11 if not inside else 0  # after the stem and ten blocks, or in the stem
        if inside.startswith('stages.'):
            _, stage, kind, block, *_ = inside.split('.')
            depth = 1 + (0, 2, 5, 9)[int(stage)] + (int(block) if kind == 'blocks' else 0)
        assert rate == 0.5 ** (11 - depth), name
        assert (decay == 0) == (name.endswith('.bias') or '.norm.' in name), name


def test_mmpretrains_own_constructor_gives_the_same_rates():
    model = classifier()
    theirs = build_optim_wrapper(model, {**RATES, 'constructor': 'LearningRateDecayOptimWrapperConstructor',
                                         'paramwise_cfg': dict(layer_decay_rate=0.5)})
    ours = rates_of(model, build_optim_wrapper(model, RATES))
    assert {name: rate for name, (rate, _) in rates_of(model, theirs).items()} == {
        name: rate for name, (rate, _) in ours.items()}


def test_gradients_are_unscaled_before_they_are_clipped(monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % CLASSES
    results = []
    for kind in ('OptimWrapper', 'AmpOptimWrapper'):
        model = classifier(distillation=False).train()
        wrapper = wrapper_of(model, kind)
        wrapper.backward(model.loss(images, samples(labels))['loss'])
        wrapper.step()
        results.append([p.grad for p in model.parameters()])
    assert wrapper.loss_scaler.get_scale() > 1000
    for plain, amp in zip(*results, strict=True):
        torch.testing.assert_close(amp, plain, rtol=1e-3, atol=1e-6)


def test_accumulated_gradients_make_one_step():
    model = classifier(distillation=False)
    wrapper = build_optim_wrapper(model, dict(
        constructor='TwoGroupsConstructor', accumulative_counts=2, clip_factor=0.02, optimizer=dict(type='SGD', lr=1.)))
    before = model.head.fc.linear.weight.clone()
    for expected in (True, False):
        wrapper.update_params(model.head.fc.linear.weight.sum())
        assert torch.equal(model.head.fc.linear.weight, before) == expected


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(constructor='TwoGroupsConstructor', clip_factor=0), 'must be positive'),
    (dict(constructor='TwoGroupsConstructor', clip_factor=0.1, clip_eps=-1.), 'must be positive'),
    (RATES, 'needs a model with a RepViT'),
    ({**RATES, 'paramwise_cfg': dict(layer_decay_rate=0)}, 'must be empty or'),
    ({**RATES, 'paramwise_cfg': dict(norm_decay_mult=0.)}, 'must be empty or'),
])
def test_settings_are_checked(settings, message):
    with pytest.raises((ConfigError, TypeError), match=message):
        build_optim_wrapper(nn.Linear(2, 2), {'optimizer': dict(type='SGD', lr=1.), **settings})


def test_the_teacher_sees_mixed_images():
    cfg = config(teacher=dict(model='set below'), train_cfg=RECIPE.model.train_cfg)
    cfg['data_preprocessor']['erase_prob'] = 1.
    model = build(cfg).train()
    seen = []
    model.teacher.model = lambda images: seen.append(images) or images.flatten(1)[:, :CLASSES]
    model.teacher.model.parameters = lambda: iter(())
    torch.manual_seed(0)
    np.random.seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples(torch.arange(4))), training=True)
    model(**data, mode='loss')
    assert torch.equal(seen[0], data['inputs'])
    plain = model.data_preprocessor(dict(inputs=images, data_samples=samples(torch.arange(4))), training=False)
    assert not torch.allclose(plain['inputs'], data['inputs'])
