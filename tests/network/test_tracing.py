"""Other tools on the backbone: tracing, compiling, quantising, pruning, hooking, sharding."""
import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from oracles import randomise_norms, relative_error
from torch import nn
from torch.nn.utils import prune

from repvit_mm import RepViT, fuse

TINY = {'widths': (8, 12), 'depths': (1, 1)}
#: How the backbone runs: settings, and whether in training.
WAYS = {'eval': ({}, False), 'train': ({}, True), 'fixed statistics': ({'norm_eval': True}, True),
        'cheap': ({'with_cp': 'cheap'}, True), 'with_cp': ({'with_cp': True}, True)}
SHARDED = ('fixed statistics', 'cheap')
X = torch.linspace(-2, 2, 2 * 3 * 32 * 48).view(2, 3, 32, 48).sin()


def build(way='eval', arch=TINY):
    settings, training = WAYS[way]
    torch.manual_seed(0)
    return randomise_norms(RepViT(arch, out_indices=(0, 1), **settings)).train(training)


def assert_same(results, expected, tolerance=1e-5):
    for ours, theirs in zip(results, expected, strict=True):
        assert relative_error(ours, theirs) < tolerance


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('first_version', [False, True])
def test_fx_traces(way, first_version):
    model = build(way, {**TINY, 'first_version': first_version})
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert_same(traced(X), model(X))
    assert traced.state_dict().keys() == model.state_dict().keys(), 'nothing is a constant of the trace'
    for ours, theirs in zip(traced.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('way', ['fixed statistics', 'cheap'])  # which runs as in training
def test_a_compiler_gets_one_graph(way):
    model = build(way)
    compiled = torch.compile(copy.deepcopy(model), backend='eager', fullgraph=True)
    assert_same(compiled(X), model(X))


def test_exports_strictly():
    model = build('train')
    program = torch.export.export(copy.deepcopy(model), (X,), strict=True)
    assert_same(program.module()(X), model(X))


def test_a_fused_model_is_scripted(tmp_path):
    fused = fuse(build())
    expected = fused(X)
    scripted = torch.jit.script(fused)
    assert scripted.state_dict().keys() == fused.state_dict().keys()
    scripted.save(tmp_path / 'model.pt')
    assert_same(torch.jit.load(tmp_path / 'model.pt')(X), expected)


def test_torchvision_extracts_features():
    from torchvision.models.feature_extraction import create_feature_extractor
    model = build()
    extractor = create_feature_extractor(model, {'stages.0.blocks.1.channel_mixer.add': 'a', 'stem.act': 'b'})
    found = extractor(X)
    assert found['b'].shape == (2, 4, 16, 24)
    assert torch.equal(found['a'], model(X)[0])
    assert extractor.train()(X)['a'].shape == found['a'].shape


def test_fx_quantises():
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
    torch.backends.quantized.engine = next(e for e in torch.backends.quantized.supported_engines if e != 'none')
    fused = fuse(build())
    prepared = prepare_fx(fused, get_default_qconfig_mapping(), (X,))
    assert_same(prepared(X), fused(X))
    quantised = convert_fx(prepared)
    assert any('quantized' in type(module).__module__ for module in quantised.modules())
    assert_same(quantised(X), fused(X), 0.3)


def losses_of(model):
    """The losses of two steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = sum(y.square().mean() for y in model(X))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def convolutions(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize('way', ['train', 'fixed statistics', 'cheap'])
@pytest.mark.parametrize('first_version', [False, True])
def test_hooks_of_every_convolution_are_called(way, first_version):
    model = build(way, {**TINY, 'first_version': first_version})
    expected = model(X)
    called = set()
    for name, conv in convolutions(model).items():
        conv.register_forward_hook(lambda *_, name=name: called.add(name))
    assert_same(model(X), expected)
    assert called == set(convolutions(model))


@pytest.mark.parametrize('way', ['train', 'fixed statistics', 'cheap'])
@pytest.mark.parametrize('parametrised', [False, True])
def test_pruned_convolutions_train(way, parametrised):
    model = build(way)
    for conv in convolutions(model).values():
        if parametrised:
            nn.utils.parametrizations.weight_norm(conv)
        else:
            prune.l1_unstructured(conv, 'weight', 0.5)
    losses_of(model)
    assert all(parameter.grad is not None for parameter in model.parameters())
    if not parametrised:
        model.eval()(X)
        assert all((conv.weight == 0).sum() >= conv.weight.numel() // 2 for conv in convolutions(model).values())


def train_sharded(rank, folder):
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    policy = partial(size_based_auto_wrap_policy, min_num_params=50)
    torch.save({way: losses_of(FullyShardedDataParallel(
        build(way), device_id=torch.device('cpu'), auto_wrap_policy=policy)) for way in SHARDED}, folder / f'{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_layers_are_sharded(tmp_path):
    torch.multiprocessing.spawn(train_sharded, (tmp_path,), nprocs=2)
    for rank in range(2):
        for way, losses in torch.load(tmp_path / f'{rank}.pt').items():
            assert losses == pytest.approx(losses_of(build(way)), rel=1e-4), way
