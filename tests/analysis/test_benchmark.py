from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import relative_error

from repvit_mm import RepViT, fuse
from repvit_mm.analysis import benchmark, systems
from repvit_mm.analysis.benchmark import Latency, latency_table, run, summarise, time_in_turns
from repvit_mm.analysis.systems import OURS, TIMM, Request, System, difference, random_model, timm_counterpart
from repvit_mm.errors import UserError
from repvit_mm.models.inference import BACKBONE, InferenceModel, randomise_weights

SMALL = Request(['m0_9'], shape=(32, 32), rounds=1, threads=1)


@pytest.fixture(scope='module')
def m0_9():
    return random_model('m0_9')


@pytest.fixture(scope='module')
def small():
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    return model


@pytest.mark.parametrize('backend, dtype, bound', [
    ('eager', 'fp32', 1e-5), ('channels_last', 'fp32', 1e-5), ('channels_last', 'bf16', 0.1),
    ('onnxruntime', 'fp32', 1e-5), ('openvino', 'fp32', 1e-4),
    pytest.param('compile', 'fp32', 1e-4, marks=pytest.mark.slow)])
@torch.no_grad()
def test_every_backend_computes_what_the_model_computes(small, backend, dtype, bound):
    image = torch.randn(2, 3, 64, 64)
    found, expected = systems.inference(small, System('small', OURS, backend, dtype, 2), image, 1)(), small(image)
    assert difference(found, expected) <= bound


@pytest.mark.parametrize(('found', 'expected'), [
    ([torch.tensor([1., 2.])], 0), ([torch.tensor([1., 3.])], 0.5), ({'y': np.array([0., 2.])}, 0.5), ([1, 2], None)])
def test_outputs_differ_by_a_share_of_the_largest_value(found, expected):
    assert difference(found, [torch.tensor([1., 2.])]) == expected


@pytest.mark.parametrize('backend', ['unfused', 'eager'])
def test_only_the_backend_unfused_keeps_the_batchnorms(m0_9, backend):
    called = set()
    call = systems.inference(m0_9, System('m0_9', OURS, backend, 'fp32', 1), torch.zeros(1, 3, 32, 32), 1)
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(type(module)))
    call()
    hook.remove()
    assert (torch.nn.BatchNorm2d in called) == (backend == 'unfused')


@pytest.mark.parametrize('source', ['m0_9', *(
    str(Path(__file__).parents[2] / f'configs/classification/repvit_m0_9_{recipe}.py') for recipe in (
        '300e', 'distill_300e'))])
@torch.no_grad()
def test_timms_model_computes_the_same_and_no_less(source):
    model, image = random_model(source), torch.randn(1, 3, 64, 64)
    (theirs,), (ours,) = systems.fuse_any(timm_counterpart(model))(image), fuse(model)(image)
    assert relative_error(theirs, ours) < 1e-5


@pytest.mark.parametrize('settings', [{'feature_tap': 'penultimate'}, {'out_indices': (0, 1)}, {'last_stride': 1},
                                      {'arch': 'm0_6'}])
def test_timm_has_no_model_of_a_part_or_of_another_network(settings):
    assert timm_counterpart(InferenceModel('part', RepViT(**{'arch': 'm0_9', **settings}), BACKBONE)) is None


@pytest.fixture
def one_model(m0_9, monkeypatch):
    monkeypatch.setattr(benchmark, 'random_model', lambda source: m0_9)


def test_a_benchmark_has_a_row_for_every_combination(one_model):
    result = run(SMALL._replace(batch_sizes=(2,), backends=('eager', 'onnxruntime'), dtypes=('fp32', 'bf16')))
    assert list(result.latencies) == [
        System('m0_9', implementation, backend, dtype, 2) for implementation in (OURS, TIMM)
        for backend, dtype in (('eager', 'fp32'), ('eager', 'bf16'), ('onnxruntime', 'fp32'))]
    assert result.left_out == ['onnxruntime in bf16']
    for system, figures in result.latencies.items():
        assert figures.difference < 1e-4 or system.dtype == 'bf16' and 1e-4 < figures.difference < 0.2
    assert result.machine['threads'] == 1 and {'torch', 'timm', 'processor', 'python'} <= set(result.machine)
    assert latency_table(result).row_count == 6


def test_a_file_is_measured_by_the_backends_that_take_it(small, tmp_path):
    from repvit_mm.export.onnx import save_graph
    path = tmp_path / 'small.onnx'
    save_graph(fuse(small), {'image': torch.zeros(1, 3, 32, 32)}, path, ['a', 'b'])
    result = run(SMALL._replace(configs=[str(path)], backends=('eager', 'onnxruntime', 'openvino')))
    assert [(system.model, system.backend) for system in result.latencies] == [
        ('small.onnx', 'onnxruntime'), ('small.onnx', 'openvino')]
    for figures in result.latencies.values():
        assert figures.median > 0 and figures.difference is figures.speed is None
    with pytest.raises(UserError, match=r'^small.onnx does not run on \d images of 64 x 32: (.|\n)*; see --shape'):
        run(SMALL._replace(configs=[str(path)], backends=('onnxruntime',), shape=(64, 32)))


def test_figures_are_medians_and_ratios():
    ours, theirs = System('m', OURS, 'compile', 'fp32', 4), System('m', TIMM, 'eager', 'fp32', 4)
    alone = System('n', OURS, 'eager', 'fp32', 1)
    times = {ours: [1., 2., 30.], theirs: [5., 5., 5.], alone: [1.]}
    figures = summarise({system: ({'difference': 0.5}, values) for system, values in times.items()})
    assert figures[ours] == Latency(2., 1.5, 16., 3, 2000., 2.5, 0.5)
    assert (figures[theirs].speed, figures[alone].speed) == (1., None)


@pytest.mark.parametrize('frozen', [False, True])
def test_a_training_step_is_one_step_of_training(small, frozen):
    steps = []
    original, torch.optim.SGD.step = torch.optim.SGD.step, lambda self, *args, **kwargs: steps.append(
        [parameter.grad is not None for group in self.param_groups for parameter in group['params']])
    kept = {}
    try:
        for way in ('channels_last', 'cheap'):
            step, details = systems.training_step(
                small, System('small', OURS, way, 'bf16', 2), torch.randn(2, 3, 32, 32), frozen)
            step()
            kept[way] = details['activations']
    finally:
        torch.optim.SGD.step = original
    assert len(steps) == 2 and all(map(all, steps))
    assert kept['cheap'] > 0 and (frozen or kept['cheap'] < 0.7 * kept['channels_last'])
    assert not small.training and all(parameter.grad is None for parameter in small.parameters())


def test_a_training_is_measured_beside_timms(one_model):
    result = run(SMALL._replace(train=True, batch_sizes=(2,), backends=('eager', 'cheap')))
    assert [(system.implementation, system.backend) for system in result.latencies] == [
        (OURS, 'eager'), (OURS, 'cheap'), (TIMM, 'eager')]
    ours, cheap, theirs = (figures.activations for figures in result.latencies.values())
    assert cheap < theirs and ours < 1.1 * theirs


@pytest.mark.parametrize('changes, message', [
    ({'backends': ['tpu']}, "unknown backend 'tpu'; choose from unfused, eager, channels_last, compile, onnxrun"),
    ({'backends': ['onnxruntime'], 'dtypes': ['bf16']}, 'onnxruntime supports fp32, not bf16'),
    ({'backends': ['openvino'], 'device': 'cuda'}, 'openvino runs on cpu only, not on cuda'),
    ({'backends': ['onnxruntime'], 'train': True}, 'a training step runs on eager, channels_last, cheap, compile, not'),
    ({'configs': ['absent.onnx']}, 'there is no file absent.onnx'),
    ({'configs': ['m7']}, 'm7 is neither an architecture nor a config; architectures are m0_6, m0_9'),
])
def test_unsupported_measurements_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        run(SMALL._replace(**changes))


def test_a_model_that_does_not_run_is_one_line(one_model):
    with pytest.raises(UserError, match='m0_9 does not run on 1 images of 32 x 32: Expected more .*--batch-size'):
        run(SMALL._replace(train=True))


def test_functions_are_measured_in_turns():
    order = []
    times = time_in_turns({name: lambda name=name: order.append(name) for name in 'abc'}, 4)
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys('abc', 4)
    assert [name for name, before in zip(order, [None, *order], strict=False) if name != before] == [*'abcabcabcabc']

