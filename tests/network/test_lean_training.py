"""Training with half the activations: the plain layers, run by torch's autograd, are the oracle."""
import copy

import pytest
import torch
import torch.distributed as dist
from oracles import randomise_norms, relative_error, timm_like
from torch import nn

from repvit_mm import RepViT
from repvit_mm.network import lean_training
from repvit_mm.network.blocks import Downsample, RepViTBlock, Stem
from repvit_mm.network.layers import RepDWConv

BN, GELU = {'type': 'BN'}, {'type': 'GELU'}
LAYERS = {
    'token mixer': lambda: RepDWConv(8),
    'token mixer of the first version': lambda: RepDWConv(8, first_version=True),
    'block': lambda: RepViTBlock(8, False, False, BN, GELU),
    'block with attention': lambda: RepViTBlock(8, True, False, BN, GELU),
    'block of the first version': lambda: RepViTBlock(8, True, True, BN, GELU),
    'block that counts batches': lambda: RepViTBlock(8, True, False, {'type': 'BN', 'momentum': None}, GELU),
    'activation in place': lambda: RepViTBlock(8, False, False, BN, {'type': 'ReLU', 'inplace': True}),
    'downsampling': lambda: Downsample(8, 12, 2, BN, GELU),
    'stem': lambda: Stem(8, 16, BN, GELU),
}
TINY = {'widths': (16, 24, 32, 40), 'depths': (1, 2, 3, 1)}


def plainly(layer, x, weight=None):
    """Output, and gradients of the input and the parameters, of a pass and a backward pass."""
    layer.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y) if weight is None else weight
    (y * weight.cos()).sum().backward()
    return {'output': y.detach(), 'input': x.grad, **{key: p.grad for key, p in layer.named_parameters()}}


def run(*args):
    with lean_training.half_the_memory():
        return plainly(*args)


@pytest.fixture
def branches(monkeypatch):
    """Run the token mixer's convolutions themselves."""
    def run_branches(*args):
        with monkeypatch.context() as patch:
            patch.setattr(lean_training, 'applies', lambda _: False)
            return plainly(*args)
    return run_branches


def assert_equal(results, expected, tolerance):
    largest = max(gradient.abs().max() for key, gradient in expected.items() if key not in ('output', 'input'))
    for key, value in expected.items():
        # A bias before a BatchNorm has no gradient but rounding.
        error = (results[key] - value).abs().max() / max(value.abs().max(), 1e-5 * largest)
        assert error < tolerance, (key, error)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last],
                         ids=['channels_first', 'channels_last'])
@pytest.mark.parametrize('name', LAYERS)
def test_equals_the_plain_layers(name, layout, branches):
    torch.manual_seed(0)
    lean = randomise_norms(LAYERS[name]()).double().to(memory_format=layout).train()
    plain = copy.deepcopy(lean)
    for shift in (0, 2):  # two steps, so that running statistics move from where they are
        x = (torch.randn(3, 8, 6, 10, dtype=torch.double) + shift).to(memory_format=layout)
        expected = branches(plain, x)
        assert_equal(plainly(copy.deepcopy(lean), x), expected, 1e-10)
        assert_equal(run(lean, x), expected, 1e-10)
        for (key, buffer), expected in zip(lean.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    layer = randomise_norms(LAYERS[name]()).double().train()
    keys, parameters = zip(*((key, p.detach()[:2].clone()) for key, p in layer.named_parameters()), strict=True)

    def function(x, *values):
        changed = {key: torch.cat([value, p.detach()[2:]]) for (key, p), value in
                   zip(layer.named_parameters(), values, strict=True)}
        return torch.func.functional_call(layer, changed, x)[:, :2]

    x = torch.randn(2, 8, 3, 2, dtype=torch.double, requires_grad=True)
    with lean_training.half_the_memory():
        assert torch.autograd.gradcheck(function, (x, *(p.requires_grad_() for p in parameters)), fast_mode=True), keys


def test_the_token_mixer_has_gradients_of_gradients():
    mixer = randomise_norms(RepDWConv(2)).double().train()
    x = torch.randn(2, 2, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(mixer, (x,))


@pytest.mark.parametrize('first_version', [False, True])
def test_weights_of_half_precision_train(first_version, branches):
    torch.manual_seed(0)
    mixer = randomise_norms(RepViTBlock(8, True, first_version, BN, GELU)).train()
    x = torch.randn(4, 8, 6, 6)
    expected, results = branches(copy.deepcopy(mixer), x), run(mixer.bfloat16(), x.bfloat16())
    assert relative_error(results['output'].float(), expected['output']) < 0.1
    assert relative_error(results['input'].float(), expected['input']) < 0.2


@pytest.mark.parametrize('first_version', [False, True])
def test_five_steps_equal_timms(first_version):
    torch.manual_seed(0)
    arch = {**TINY, 'first_version': first_version}
    ours = randomise_norms(RepViT(arch, out_indices=(3,), with_cp='cheap')).train()
    theirs = timm_like(ours, arch)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.02) for model in (ours, theirs)]
    for _ in range(5):
        x = torch.randn(4, 3, 128, 128)
        outputs = [ours(x)[0], theirs.forward_features(x)]
        assert relative_error(*outputs) < 1e-5
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
    for ours_, theirs_ in zip(timm_like(ours, arch).state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-5, atol=1e-5)


def kept(model, x):
    """Bytes that a pass keeps for its backward pass, parameters and input aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), x)}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    assert output[0].requires_grad
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


@pytest.mark.parametrize('first_version', [False, True])
def test_keeps_less_than_half_of_what_timm_keeps(first_version):
    arch = {**TINY, 'first_version': first_version}
    model, x = RepViT(arch, out_indices=(3,), with_cp='cheap').train(), torch.randn(2, 3, 128, 128)
    theirs = timm_like(model, arch)
    assert kept(model, x) < 0.5 * kept(theirs.stem, x) + 0.5 * kept(theirs.stages, theirs.stem(x).detach())


@pytest.mark.parametrize(('dtype', 'ratio'), [(torch.float32, 1e3), (torch.bfloat16, 30)])
@pytest.mark.parametrize('first_version', [False, True])
def test_large_means_do_not_cancel(dtype, ratio, first_version, branches):
    torch.manual_seed(0)
    exact = randomise_norms(RepDWConv(8, first_version)).double().train()
    x = (torch.randn(4, 8, 12, 12) + ratio).to(dtype)
    weight = torch.randn(4, 8, 12, 12)
    expected = branches(copy.deepcopy(exact), x.double(), weight.double())
    lean, plain = copy.deepcopy(exact).float(), copy.deepcopy(exact).float()
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype is torch.bfloat16):
        results, others = run(lean, x, weight), branches(plain, x, weight)
    assert results['output'].dtype is dtype
    assert results['dw3x3.conv.weight'].dtype is torch.float32
    for key in ('output', 'input', 'dw3x3.conv.weight'):
        assert relative_error(results[key], expected[key]) < 2 * relative_error(others[key], expected[key]) + 1e-4, key
    assert all(buffer.dtype is not torch.bfloat16 for buffer in lean.buffers())


def test_mixed_precision_differs_by_its_rounding_only(branches):
    torch.manual_seed(0)
    lean = randomise_norms(RepViTBlock(8, True, False, BN, GELU)).train()
    plain, x = copy.deepcopy(lean), torch.randn(4, 8, 12, 12)
    exact = branches(copy.deepcopy(lean), x)
    with torch.autocast('cpu', torch.bfloat16):
        results, others = run(lean, x), branches(plain, x)
    for key in exact:
        assert results[key].dtype is others[key].dtype, key
        if 'dw1x1.bias' not in key and 'dw3x3.norm.bias' not in key:
            assert relative_error(results[key], exact[key]) < 2 * relative_error(others[key], exact[key]) + 1e-2, key


def test_mixed_precision_leaves_the_strided_depthwise_convolution_in_single_precision():
    """Whose gradients in bfloat16 take a CPU ten times as long."""
    layer = Downsample(8, 12, 2, BN, GELU)
    dtypes = {}
    for name in ('spatial.norm', 'channel.norm'):
        layer.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: dtypes.update({name: args[0].dtype}))
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(2, 8, 6, 6, dtype=dtype, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            layer(x).float().sum().backward()
        assert dtypes == {'spatial.norm': torch.float32, 'channel.norm': dtype} and x.grad.dtype == dtype
    weights_too = layer.to(torch.bfloat16)
    assert weights_too(x.bfloat16()).dtype == dtypes['spatial.norm'] == torch.bfloat16


def test_what_does_not_learn_gets_no_gradient():
    layer = RepViTBlock(8, True, False, {'type': 'BN', 'requires_grad': False}, GELU).train()
    layer.channel_mixer.conv1.conv.requires_grad_(False)
    with lean_training.half_the_memory():
        layer(torch.randn(2, 8, 6, 6)).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize('norm_cfg', [{'type': 'GN', 'num_groups': 2}, {'type': 'BN', 'affine': False},
                                      {'type': 'BN', 'track_running_stats': False}], ids=str)
def test_other_norms_are_left_alone(norm_cfg):
    mixer = RepDWConv(8, norm_cfg=norm_cfg).train()
    calls = []
    mixer.norm.register_forward_hook(lambda *_: calls.append(1))
    with lean_training.half_the_memory():
        mixer(torch.randn(2, 8, 6, 6)).sum().backward()
    assert calls


def test_a_single_value_per_channel_is_refused_as_ever():
    with pytest.raises(ValueError, match='more than 1 value per channel'), lean_training.half_the_memory():
        RepViTBlock(8, False, False, BN, GELU).train()(torch.randn(1, 8, 1, 1))


def test_a_map_that_was_changed_in_place_is_kept_itself():
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(4).double(), nn.Conv2d(4, 4, 1, bias=False).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.double)
    with lean_training.half_the_memory():
        changed = lean_training.normalise(norm, x).mul_(3)
        lean_training.convolve(conv, changed).square().sum().backward()
    gradient, conv.weight.grad = conv.weight.grad, None
    conv(changed.detach()).square().sum().backward()
    assert relative_error(gradient, conv.weight.grad) < 1e-12


def test_a_compiler_gets_the_plain_layers():
    torch.manual_seed(0)
    model = randomise_norms(RepViT(TINY, out_indices=(3,), with_cp='cheap')).train()
    x = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(copy.deepcopy(model), backend='eager')
    assert relative_error(compiled(x)[0], model(x)[0]) < 1e-4


def train_in_parts(rank, folder):
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    layers, x, weights = torch.load(folder / 'job.pt', weights_only=False)
    part = slice(0, 3) if rank == 0 else slice(3, 5)  # the processes need not have the same number of images
    results = [run(layer, x[part], weight[part]) for layer, weight in zip(layers, weights, strict=True)]
    torch.save((results, [dict(layer.named_buffers()) for layer in layers]), folder / f'{rank}.pt')
    dist.destroy_process_group()


class Chain(nn.Module):
    """A BatchNorm between two convolutions."""

    def __init__(self, norm):
        super().__init__()
        self.conv1, self.norm, self.conv2 = (nn.Conv2d(8, 8, 1, bias=False), norm, nn.Conv2d(8, 8, 1, bias=False))

    def forward(self, x):
        x = lean_training.normalise(self.norm, self.conv1(x))
        return lean_training.convolve(self.conv2, x, nn.functional.gelu)


@pytest.mark.slow
def test_processes_share_statistics_as_one(tmp_path, branches):
    torch.manual_seed(0)
    build = [lambda kind: RepDWConv(8, False, {'type': kind}), lambda kind: RepDWConv(8, True, {'type': kind}),
             lambda kind: Chain({'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}[kind](8))]
    whole, shared = ([randomise_norms(make(kind)).double().train() for make in build] for kind in ('BN', 'SyncBN'))
    for one, other in zip(whole, shared, strict=True):
        other.load_state_dict(one.state_dict())
    x = torch.randn(5, 8, 6, 4, dtype=torch.double) + 3
    weights = [torch.randn_like(x) for _ in whole]
    torch.save((shared, x, weights), tmp_path / 'job.pt')
    torch.multiprocessing.spawn(train_in_parts, (tmp_path,), nprocs=2)
    (first, buffers), (second, _) = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    for one, weight, ours, others, held in zip(whole, weights, first, second, buffers, strict=True):
        expected = branches(one, x, weight)
        for key in ('output', 'input'):
            assert relative_error(torch.cat([ours.pop(key), others.pop(key)]), expected.pop(key)) < 1e-10, key
        assert_equal({key: ours[key] + others[key] for key in ours}, expected, 1e-10)
        for key, buffer in one.named_buffers():
            torch.testing.assert_close(held[key], buffer, rtol=1e-10, atol=1e-12, msg=key)
