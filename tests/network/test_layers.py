import pytest
import torch
from oracles import randomise_norms, relative_error
from torch import nn

from repvit_mm.errors import ConfigError
from repvit_mm.network.layers import BNLinear, ConvBN, DropPath, RepDWConv, build_act, build_norm

FUSIBLE = {
    'ConvBN': lambda: ConvBN(6, 8, 3, stride=2, groups=2),
    'RepDWConv': lambda: RepDWConv(8),
    'RepDWConv of the first version': lambda: RepDWConv(8, first_version=True),
    'BNLinear': lambda: BNLinear(8, 5),
}


def input_of(layer):
    channels = {ConvBN: 6}.get(type(layer), 8)
    return torch.randn(4, channels) if isinstance(layer, BNLinear) else torch.randn(2, channels, 7, 9)


@pytest.mark.parametrize('name', FUSIBLE)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_fused_layer_is_one_plain_layer_of_the_same_function(name, dtype):
    layer = randomise_norms(FUSIBLE[name]()).to(dtype).eval()
    x = input_of(layer).to(dtype)
    fused = layer.fuse()
    assert type(fused) is (nn.Linear if name == 'BNLinear' else nn.Conv2d)
    assert fused.weight.dtype is dtype
    assert not fused.training
    assert relative_error(fused(x), layer(x)) < {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]


@pytest.mark.parametrize('name', [name for name in FUSIBLE if name != 'BNLinear'])
def test_training_on_fixed_statistics_has_the_outputs_and_gradients_of_the_branches(name):
    layer = randomise_norms(FUSIBLE[name]()).double().train()
    for norm in layer.norms():
        norm.eval()
    x = input_of(layer).double()
    folded = layer(x)
    folded.square().sum().backward()
    gradients = {key: parameter.grad.clone() for key, parameter in layer.named_parameters()}

    layer.zero_grad()
    layer.eval()  # the branches themselves
    layer(x).square().sum().backward()
    assert relative_error(folded, layer(x)) < 1e-6  # folding computes in float32
    for key, parameter in layer.named_parameters():
        assert relative_error(gradients[key], parameter.grad) < 1e-5, key


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    x = torch.ones(4000, 2, 3, 1)
    y = drop(x)
    assert set(y.unique().tolist()) == {0, torch.tensor(1 / 0.75).item()}
    assert (y.flatten(1).std(1) == 0).all(), 'a sample is dropped as a whole'
    assert abs(y.mean().item() - 1) < 0.05
    assert torch.equal(drop.eval()(x), x)


def test_norm_settings_reach_the_norm():
    norm = build_norm(8, {'type': 'BN', 'eps': 1e-3, 'momentum': 0.03, 'requires_grad': False})
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)
    assert not any(p.requires_grad for p in norm.parameters())


@pytest.mark.parametrize(('build', 'message'), [
    (lambda: build_norm(8, {'type': 'LN'}), "norm_cfg has type 'LN'; choose one of BN, SyncBN, GN"),
    (lambda: build_norm(8, {'type': 'BN', 'epsilon': 1}), 'epsilon'),
    (lambda: build_norm(8, {'type': 'GN'}), 'num_groups'),
    (lambda: build_norm(8, {'type': 'GN', 'num_groups': 3}), 'divisible'),
    (lambda: build_act({'type': 'Gelu'}), "act_cfg has type 'Gelu'; choose one of GELU"),
])
def test_a_layer_setting_that_cannot_work_is_refused(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value)
