import pytest
import torch
from oracles import build, randomise_norms, relative_error
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_mm import fuse


def number_of(kind, model):
    return sum(isinstance(m, kind) for m in model.modules())


def test_fusing_copies_unless_asked_and_fusing_twice_changes_nothing():
    model = build().eval()
    once = fuse(model)
    assert once is not model and number_of(_BatchNorm, model) > 0 and not model.deploy
    assert fuse(model, inplace=True) is model and number_of(_BatchNorm, model) == 0 and model.deploy
    twice = fuse(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    assert fuse(once.train()) is not None, 'nothing is left that depends on the mode'


def test_a_model_that_holds_maps_of_a_training_step_is_copied():
    model = build().eval()
    model.found = {'maps': list(model(torch.randn(1, 3, 32, 32)))}  # as CondInst's head does
    fused = fuse(model)
    assert torch.equal(fused.found['maps'][0], model.found['maps'][0])
    assert model.found['maps'][0].requires_grad and not fused.found['maps'][0].requires_grad


def test_a_model_in_training_mode_is_refused_and_left_alone():
    model = build().train()
    before = list(model.state_dict())
    with pytest.raises(RuntimeError, match=r'call model\.eval\(\) first'):
        fuse(model, inplace=True)
    assert list(model.state_dict()) == before


def test_dtype_and_memory_format_and_trainability_are_kept():
    model = build(frozen_stages=1).eval().to(torch.bfloat16, memory_format=torch.channels_last)
    fused = fuse(model)
    assert {p.dtype for p in fused.parameters()} == {torch.bfloat16}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in fused.parameters() if p.ndim == 4)
    assert not any(p.requires_grad for p in fused.stem.parameters())
    assert all(p.requires_grad for p in fused.stages[1].parameters())


def test_group_norm_is_left_alone():
    model = build(norm_cfg={'type': 'GN', 'num_groups': 4}).eval()
    fused = fuse(model)
    assert list(fused.state_dict()) == list(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(fused(x)[-1], model(x)[-1])


def test_a_layer_shared_by_two_parents_stays_shared():
    block = build().eval().stem
    model = nn.ModuleList([nn.Sequential(block.conv1), nn.Sequential(block.conv1)])
    fused = fuse(model)
    assert isinstance(fused[0][0], nn.Conv2d)
    assert fused[0][0] is fused[1][0]


@pytest.mark.parametrize(('is_fused', 'settings'), [
    (True, {'norm_cfg': {'type': 'BN'}}),
    (True, {'norm_cfg': {'type': 'SyncBN'}}),
    (True, {'norm_cfg': {'type': 'BN'}, 'bias': True, 'act_cfg': {'type': 'Swish'}}),
    (True, {'norm_cfg': {'type': 'BN'}, 'groups': 4, 'stride': 2, 'dilation': 2}),
    (True, {'norm_cfg': {'type': 'BN'}, 'padding_mode': 'reflect'}),
    (False, {'norm_cfg': {'type': 'GN', 'num_groups': 2}}),
    (False, {'norm_cfg': {'type': 'BN'}, 'order': ('norm', 'conv', 'act')}),
    (False, {'norm_cfg': {'type': 'BN'}, 'order': ('conv', 'act', 'norm')}),
    (False, {'norm_cfg': {'type': 'BN'}, 'conv_cfg': {'type': 'ConvWS'}}),
    (False, {'norm_cfg': {'type': 'IN'}}),
    (False, {'norm_cfg': None}),
])
def test_a_layer_of_mmcv_is_fused_or_left_alone(is_fused, settings):
    from mmcv.cnn import ConvModule
    module = randomise_norms(ConvModule(8, 8, 3, padding=1, **settings)).eval()
    x = torch.randn(2, 8, 9, 9)
    expected, fused = module(x), fuse(module)
    if is_fused:
        assert number_of(_BatchNorm, fused) == 0
        assert relative_error(fused(x), expected) < 2e-6
    else:
        assert list(fused.state_dict()) == list(module.state_dict())
        assert torch.equal(fused(x), expected)
