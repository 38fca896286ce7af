"""Recomputed maps: the same block, run by torch's autograd on its branches, is the oracle."""
import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import TINY, randomise_norms, relative_error, timm_like
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from repvit_mm import RepViT
from repvit_mm.network.layers import ACTIVATIONS, Downsample, RepDWConv, RepViTBlock, Stem
from repvit_mm.network.recompute import run

BN, GELU = {'type': 'BN'}, {'type': 'GELU'}


def block(se=True, first_version=False, norm_cfg=BN, act_cfg=GELU, **settings):
    return RepViTBlock(8, se, first_version, norm_cfg, act_cfg, **settings)


LAYERS = {
    'token mixer': lambda: RepDWConv(8),
    'token mixer of the first version': lambda: RepDWConv(8, first_version=True),
    'block': block,
    'block without attention': lambda: block(se=False),
    'block without branches': lambda: block(reparameterise=False),
    'block of the first version': lambda: block(first_version=True),
    'block that drops paths': lambda: block(drop_path_rate=0.5),
    'block that counts batches': lambda: block(norm_cfg={'type': 'BN', 'momentum': None}),
    'GroupNorm': lambda: block(norm_cfg={'type': 'GN', 'num_groups': 2}),
    'BatchNorm without weights': lambda: block(norm_cfg={'type': 'BN', 'affine': False}),
    'BatchNorm without running statistics': lambda: block(norm_cfg={'type': 'BN', 'track_running_stats': False}),
    'frozen BatchNorm': lambda: block(norm_cfg={'type': 'BN', 'requires_grad': False}),
    'activation in place': lambda: block(act_cfg={'type': 'ReLU', 'inplace': True}),
    **{act: lambda act=act: block(act_cfg={'type': act}) for act in ACTIVATIONS},
    'downsampling': lambda: Downsample(8, 12, 2, BN, GELU),
    'stem': lambda: Stem(8, 16, (4, 4), BN, GELU),
}


def step(layer, x, with_cp=False, weight=None):
    """Output, and gradients of the input and the parameters, of a pass and a backward pass."""
    torch.manual_seed(0)
    layer.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(layer, x, with_cp)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y) if weight is None else weight
    (y * weight.cos()).sum().backward()
    return {'output': y.detach(), 'input': x.grad,
            **{key: p.grad for key, p in layer.named_parameters() if p.requires_grad}}


def on_branches(layer):
    """A copy whose token mixer calls every convolution: each has a hook."""
    layer = copy.deepcopy(layer)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: None)
    return layer


def assert_equal(results, expected, tolerance):
    largest = max(gradient.abs().max() for key, gradient in expected.items() if key not in ('output', 'input'))
    for key, value in expected.items():
        # A bias before a BatchNorm has no gradient but rounding.
        error = (results[key] - value).abs().max() / max(value.abs().max(), 1e-5 * largest)
        assert error < tolerance, (key, error)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last],
                         ids=['channels_first', 'channels_last'])
@pytest.mark.parametrize('name', LAYERS)
def test_gradients_and_statistics_equal_those_of_the_branches(name, layout):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    if 'statistics' not in name and 'without weights' not in name:
        randomise_norms(layer)
    layers = [layer.to(memory_format=layout).train(), copy.deepcopy(layer), copy.deepcopy(layer)]
    branches = on_branches(layer)
    for shift in (0, 2):  # two steps, so that running statistics move from where they are
        x = (torch.randn(3, 8, 6, 10, dtype=torch.double) + shift).to(memory_format=layout)
        expected = step(branches, x)
        for layer, with_cp in zip(layers, (False, True, 'cheap'), strict=True):
            assert_equal(step(layer, x, with_cp), expected, 1e-9)
            for (key, buffer), other in zip(layer.named_buffers(), branches.buffers(), strict=True):
                torch.testing.assert_close(buffer, other, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize('name', ['block', 'block of the first version', 'block without branches', 'stem'])
def test_cheap_maps_are_recomputed_on_fixed_statistics(name):
    torch.manual_seed(0)
    layer = randomise_norms(LAYERS[name]()).double().train()
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    x = torch.randn(3, 8, 6, 10, dtype=torch.double)
    assert_equal(step(layer, x, 'cheap'), step(layer, x), 1e-12)


class Storages(TorchDispatchMode):
    """Storages that operations return while it is active."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.found[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return result


def held(function, model, x):
    """Bytes that a forward pass holds for its backward pass, parameters and input aside."""
    function(x)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), x)}
    with Storages() as storages:
        output = function(x)
    assert output.requires_grad
    return sum(size for pointer, (storage, size) in storages.found.items()
               if pointer not in own and not storage.expired())


@pytest.mark.parametrize('first_version', [False, True])
def test_holds_less_than_half_of_what_timm_holds(first_version):
    arch = {**TINY, 'first_version': first_version}
    x = torch.randn(2, 3, 128, 128)
    models = {with_cp: RepViT(arch, out_indices=(3,), with_cp=with_cp).train() for with_cp in (False, 'cheap', True)}
    theirs = timm_like(models[False], arch)
    sizes = {with_cp: held(lambda x, model=model: model(x)[0], model, x) for with_cp, model in models.items()}
    timms = held(theirs.forward_features, theirs, x)
    cheap = 0.53 if first_version else 0.5  # the 1x1 convolutions are not recomputed
    assert sizes[False] < 1.01 * timms and sizes['cheap'] < cheap * timms and sizes[True] < 0.25 * timms, (sizes, timms)


@pytest.mark.parametrize('act', ['GELU', 'Hardswish', 'SiLU'])
def test_mixed_precision_differs_by_its_rounding_only(act):
    torch.manual_seed(0)
    layer, x = randomise_norms(block(act_cfg={'type': act})).train(), torch.randn(4, 8, 12, 12)
    exact = step(on_branches(layer), x)
    with torch.autocast('cpu', torch.bfloat16):
        others, results = step(on_branches(layer), x), step(layer, x, 'cheap')
    for key in exact:
        assert results[key].dtype is others[key].dtype, key
        if 'dw1x1.bias' not in key and 'dw3x3.norm.bias' not in key:
            assert relative_error(results[key], exact[key]) < 2 * relative_error(others[key], exact[key]) + 1e-2, key


def test_frozen_parts_get_no_gradient():
    layer = block(norm_cfg={'type': 'BN', 'requires_grad': False}).train()
    layer.channel_mixer.conv1.conv.requires_grad_(False)
    run(layer, torch.randn(2, 8, 6, 6), 'cheap').square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


class Changed(nn.Module):
    """Changes a map in place after a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        return self.conv(self.norm(x).mul_(3))


def test_a_map_that_was_changed_in_place_is_kept_itself():
    torch.manual_seed(0)
    layer, x = Changed().double(), torch.randn(2, 4, 3, 3, dtype=torch.double)
    assert_equal(step(layer, x, 'cheap'), step(layer, x), 1e-12)


@pytest.mark.parametrize('with_cp', [False, 'cheap'])
def test_a_tensor_that_is_changed_before_the_backward_pass_is_refused(with_cp):
    x = torch.randn(2, 8, 6, 6)
    layer = block().train()
    y = run(layer, x, with_cp)
    with torch.no_grad():
        layer.channel_mixer.conv2.conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


class NormFunction(torch.autograd.Function):
    """A normalisation written as SyncBatchNorm is: a Function, which the forward pass of a module applies."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, eps=0.)

    @staticmethod
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        return grad * scale.view(-1, 1, 1), (grad * x).sum((0, 2, 3))


class Applied(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.conv2(F.gelu(NormFunction.apply(self.conv1(x), self.scale)))


def test_maps_of_functions_are_recomputed_too():
    torch.manual_seed(0)
    layer, x = Applied().train(), torch.randn(2, 8, 16, 16)
    assert_equal(step(layer, x, 'cheap'), step(layer, x), 1e-5)
    plain, cheap = (held(lambda x, with_cp=with_cp: run(layer, x, with_cp), layer, x) for with_cp in (False, 'cheap'))
    # Without the outputs of norm and activation, but for some numbers of each channel.
    assert plain - cheap == pytest.approx(2 * x.nbytes, rel=0.1)
