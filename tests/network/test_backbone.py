import copy

import pytest
import torch
from mmengine.registry import MODELS
from oracles import TINY, build, relative_error, timm_like
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_mm import ARCHS, RepViT, fuse
from repvit_mm.errors import ConfigError

ARCH_AND_TINY = [*ARCHS, TINY, {**TINY, 'first_version': True}]
SIZES = [(64, 64), (65, 97), (37, 33)]


def taps_of_timm(model, x):
    """Maps of timm's stages: what it hands out, and the end of each stage, which it keeps in the next one."""
    ends = []
    hooks = [stage.downsample.pre_block.register_forward_hook(lambda _, __, y: ends.append(y))
             for stage in model.stages[1:]]
    last, penultimate = model.forward_intermediates(x)
    for hook in hooks:
        hook.remove()
    return {'penultimate': penultimate, 'stage_end': [*ends, last]}


@pytest.mark.parametrize('arch', ARCH_AND_TINY, ids=str)
def test_outputs_equal_timms_unfused_and_fused(arch):
    model = build(arch).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = taps_of_timm(timm_like(model, arch), x)['stage_end']
        for name, outputs in {'training form': model(x), 'fused': fuse(model)(x)}.items():
            for ours, theirs in zip(outputs, expected, strict=True):
                assert relative_error(ours, theirs) < 5e-6, name


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('tap', ['stage_end', 'penultimate'])
@pytest.mark.parametrize('first_version', [False, True])
def test_both_taps_equal_timms_at_even_and_odd_sizes(tap, size, first_version):
    arch = {**TINY, 'first_version': first_version}
    model = build(arch, feature_tap=tap).eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = taps_of_timm(timm_like(model, arch), x)[tap]
        for ours, theirs in zip(model(x), expected, strict=True):
            assert relative_error(ours, theirs) < 5e-6


@pytest.mark.parametrize('arch', ['m0_6', 'm0_9', 'm1', TINY, {**TINY, 'first_version': True}], ids=str)
def test_training_step_equals_timms(arch):
    ours = build(arch).double().train()
    theirs = timm_like(ours, arch)
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    ends, expected = ours(x), taps_of_timm(theirs, x)['stage_end']
    for end, other in zip(ends, expected, strict=True):
        assert relative_error(end, other) < 1e-10
    sum(end.square().mean() for end in ends).backward()
    sum(end.square().mean() for end in expected).backward()

    # Gradients travel to timm's names the way weights do.
    gradients = copy.deepcopy(ours)
    for (_, parameter), source in zip(gradients.named_parameters(), ours.parameters(), strict=True):
        parameter.data.copy_(source.grad)
    carried = timm_like(gradients, arch)
    for (key, gradient), parameter in zip(carried.named_parameters(), theirs.parameters(), strict=True):
        # A bias before a BatchNorm has no gradient but rounding.
        torch.testing.assert_close(gradient.data, parameter.grad, rtol=0, msg=key,
                                   atol=max(1e-8 * parameter.grad.abs().max().item(), 1e-13))
    for (key, buffer), other in zip(carried.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other.to(buffer), rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_builds_by_name_in_every_toolbox(scope):
    import importlib
    registry = importlib.import_module(f'{scope}.registry').MODELS
    model = registry.build({'type': 'RepViT', 'arch': TINY})
    assert isinstance(model, RepViT)
    assert isinstance(MODELS.build({'type': 'repvit_mm.RepViT', 'arch': TINY}), RepViT)


@pytest.mark.parametrize('indices', [(0,), (3,), (0, 2), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize('tap', ['stage_end', 'penultimate'])
def test_out_indices_select_maps_and_leave_no_parameter_unused(indices, tap):
    whole, part = build(feature_tap=tap).train(), build(out_indices=indices, feature_tap=tap).train()
    part.load_state_dict({key: value for key, value in whole.state_dict().items() if key in part.state_dict()})
    x = torch.randn(2, 3, 64, 64)
    maps, selected = whole(x), part(x)
    assert len(selected) == len(indices)
    for i, channels, stride, ours in zip(indices, part.out_channels, part.out_strides, selected, strict=True):
        assert torch.equal(ours, maps[i])
        assert ours.shape == (2, channels, 64 // stride, 64 // stride)
    sum(x.sum() for x in selected).backward()
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize(('settings', 'strides', 'sizes'), [
    ({}, (4, 8, 16, 32), [(16, 25), (8, 13), (4, 7), (2, 4)]),
    ({'strides': (4, 2, 2, 2)}, (4, 8, 16, 32), [(16, 25), (8, 13), (4, 7), (2, 4)]),
    ({'last_stride': 1}, (4, 8, 16, 16), [(16, 25), (8, 13), (4, 7), (4, 7)]),
    ({'strides': [4, 1, 1, 1]}, (4, 4, 4, 4), [(16, 25)] * 4),
    ({'strides': (2, 2, [2, 1], (2, 1))}, (2, 4, (8, 4), (16, 4)), [(32, 50), (16, 25), (8, 25), (4, 25)]),
    ({'strides': ((4, 1), 1, 1, 2)}, ((4, 1), (4, 1), (4, 1), (8, 2)), [(16, 99)] * 3 + [(8, 50)]),
], ids=str)
def test_strides_give_the_resolution_of_each_stage_unfused_and_fused(settings, strides, sizes):
    model = build(**settings).eval()
    assert model.out_strides == strides
    x = torch.randn(1, 3, 64, 99)
    with torch.no_grad():
        for ours, fused, size in zip(model(x), fuse(model)(x), sizes, strict=True):
            assert ours.shape[2:] == size
            assert relative_error(fused, ours) < 5e-6


@pytest.mark.parametrize(('se', 'number'), [('none', 0), ('every', 10), ('alternate', 5)])
@pytest.mark.parametrize('reparameterise', [False, True])
def test_an_arch_chooses_its_attention_and_branches(se, number, reparameterise):
    arch = {**TINY, 'se': se, 'reparameterise': reparameterise}
    model, deployed = build(arch), build(arch, deploy=True).eval()
    assert sum(type(module).__name__ == 'SqueezeExcite' for module in model.modules()) == number
    assert sum(type(module).__name__ == 'RepDWConv' for module in model.modules()) == 10 * reparameterise
    sum(x.sum() for x in model.train()(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())
    deployed.load_state_dict(fuse(model.eval()).state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert relative_error(deployed(x)[-1], model(x)[-1]) < 5e-6


def test_layers_have_depths_for_learning_rates_that_decay():
    model = build()  # 2 + 3 + 4 + 1 blocks
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {layers for _, layers in depths.values()} == {12}
    assert {depth for depth, _ in depths.values()} == set(range(11))
    for name, depth in (('stem.conv1.conv.weight', 0), ('stages.0.blocks.0.se.fc1.bias', 1),
                        ('stages.1.downsample.channel.conv.weight', 3), ('stages.1.blocks.0.se.fc1.weight', 3),
                        ('stages.3.blocks.0.channel_mixer.conv2.norm.bias', 10)):
        assert depths[name][0] == depth, name
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (11, 12)


def test_in_channels():
    assert build(in_channels=5).eval()(torch.zeros(1, 5, 32, 32))[0].shape == (1, 16, 8, 8)


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_neither_learn_nor_update_statistics(frozen):
    model = build(frozen_stages=frozen).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1) if frozen < 4 else None
    loss = sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)))
    if optimizer:
        loss.backward()
        optimizer.step()
    for part, module in {'stem': model.stem, **dict(enumerate(model.stages, start=1))}.items():
        is_frozen = frozen >= (0 if part == 'stem' else part)
        prefix = 'stem.' if part == 'stem' else f'stages.{part - 1}.'
        changed = [key for key, value in model.state_dict().items()
                   if key.startswith(prefix) and not torch.equal(value, before[key])]
        assert bool(changed) != is_frozen, part
        assert all(m.training != is_frozen for m in module.modules() if isinstance(m, _BatchNorm))


def test_norm_eval_keeps_statistics_and_trains_weights():
    model = build(norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    outputs = model(x)
    sum(y.square().mean() for y in outputs).backward()
    assert all(m.weight.grad.abs().max() > 0 for m in model.modules() if isinstance(m, _BatchNorm))
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, before[key]), key
    for ours, expected in zip(outputs, model.eval()(x), strict=True):
        assert relative_error(ours, expected) < 1e-5
    assert model.train().training


def test_drop_path_rises_linearly_over_the_blocks():
    model = build(drop_path_rate=0.3)
    rates = [m.rate for m in model.modules() if type(m).__name__ == 'DropPath']
    assert len(rates) == sum(TINY['depths']) + 3 + 3
    assert rates == pytest.approx(torch.linspace(0, 0.3, len(rates)).tolist())
    x = torch.randn(2, 3, 64, 64)
    model.train()
    assert not torch.equal(model(x)[-1], model(x)[-1])
    model.eval()
    assert torch.equal(model(x)[-1], model(x)[-1])


def test_configs_choose_activation_and_normalisation():
    model = build(norm_cfg={'type': 'GN', 'num_groups': 4}, act_cfg={'type': 'Hardswish'}).train()
    kinds = {type(module) for module in model.modules()}
    assert {nn.GroupNorm, nn.Hardswish} <= kinds and not {nn.GELU, nn.BatchNorm2d} & kinds
    sum(x.sum() for x in model(torch.randn(1, 3, 32, 32))).backward()
    assert any(isinstance(m, nn.SyncBatchNorm) for m in build(norm_cfg={'type': 'SyncBN'}).modules())


@pytest.mark.parametrize(('settings', 'message'), [
    ({'arch': 'm3_0'}, 'choose one of m0_6'),
    ({'in_channels': ()}, 'in_channels=() must be a number from 1'),
    ({'in_channels': 0}, 'in_channels=0 must be a number from 1'),
    ({'out_indices': (0, 4)}, 'ascending numbers from (0, 1, 2, 3)'),
    ({'out_indices': (1, 1)}, 'ascending'),
    ({'out_indices': ()}, 'ascending'),
    ({'feature_tap': 'end'}, 'one of stage_end, penultimate'),
    ({'last_stride': 4}, '1, 2 or 4 for the stem, then 1 or 2'),
    ({'strides': (4, 2, 2)}, 'a list of 4 numbers or pairs'),
    ({'strides': (4, 2, 2, (2, 2, 2))}, 'a list of 4 numbers or pairs'),
    ({'strides': (4, 2, 2, 2), 'last_stride': 1}, 'leave out last_stride'),
    ({'with_cp': 'all'}, "False, True or 'cheap'"),
    ({'frozen_stages': 5}, '1 to 4'),
    ({'drop_path_rate': 1.}, 'below 1'),
    ({'norm_cfg': {'type': 'IN'}}, 'BN, SyncBN, GN'),
    ({'act_cfg': {'type': 'gelu'}}, 'GELU'),
    ({'deploy': True, 'norm_cfg': {'type': 'GN', 'num_groups': 4}}, 'cannot be fused'),
])
def test_a_setting_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        RepViT(**{'arch': TINY, **settings})
    assert message in str(error.value)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match='frozen_stage'):
        RepViT(TINY, frozen_stage=1)
