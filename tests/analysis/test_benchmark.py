import numpy as np
import pytest
import torch
from oracles import relative_error

from repvit_mm import RepViT, fuse
from repvit_mm.analysis import benchmark, latency
from repvit_mm.analysis.backends import BACKENDS
from repvit_mm.analysis.benchmark import Request, run
from repvit_mm.analysis.latency import OURS, TIMM, System, measure, summarise, timm_counterpart
from repvit_mm.analysis.report import latency_table, machine_line, plot_latencies
from repvit_mm.checkpoints import convert_state_dict
from repvit_mm.errors import UserError
from repvit_mm.inference import BACKBONE, InferenceModel, build_inference_model, randomise_weights

SMALL = Request(['m0_9'], shape=(32, 32), rounds=1, threads=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(latency, 'WARMUP_SECONDS', 0.)


@pytest.fixture(scope='module')
def m0_9():
    model = build_inference_model('m0_9')
    randomise_weights(model)
    return model


@pytest.mark.parametrize('backend, dtype, bound', [
    ('eager', 'fp32', 1e-5), ('channels_last', 'fp32', 1e-5), ('channels_last', 'bf16', 0.1),
    ('onnxruntime', 'fp32', 1e-5), ('openvino', 'fp32', 1e-4),
    pytest.param('compile', 'fp32', 1e-4, marks=pytest.mark.slow)])
@torch.no_grad()
def test_every_backend_computes_what_the_model_computes(backend, dtype, bound):
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    randomise_weights(model)
    image = torch.randn(2, 3, 64, 64)
    found = BACKENDS[backend].prepare(fuse(model), image, dtype, 1)()
    found = [found[i] for i in range(2)]
    for ours, theirs in zip(found, model(image), strict=True):
        assert (torch.as_tensor(np.asarray(ours) if dtype == 'fp32' else ours).float() - theirs).abs().max() <= (
            bound * theirs.abs().max())


@pytest.mark.parametrize('backend', ['unfused', 'eager'])
def test_only_the_backend_unfused_keeps_the_batchnorms(m0_9, backend, monkeypatch):
    prepared = []
    monkeypatch.setitem(BACKENDS, backend, BACKENDS[backend]._replace(prepare=lambda *args: prepared.append(args[0])))
    latency.prepare(m0_9, System('m0_9', OURS, backend, 'fp32', 1), (32, 32), 'cpu', 1)
    norms = [module for module in prepared[0].modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert bool(norms) == (backend == 'unfused')


@torch.no_grad()
def test_timms_model_is_the_same_network(m0_9):
    theirs = timm_counterpart(m0_9)
    missing, unexpected = theirs.model.load_state_dict(convert_state_dict(m0_9.model.state_dict(), to='timm'),
                                                       strict=False)
    assert not unexpected and not [name for name in missing if 'head' not in name]
    image = torch.randn(1, 3, 64, 64)
    assert relative_error(latency.fuse_any(theirs)(image)[0], fuse(m0_9)(image)[-1]) < 1e-5


@pytest.mark.parametrize('settings', [{'feature_tap': 'penultimate'}, {'out_indices': (0, 1)}, {'last_stride': 1}])
def test_there_is_no_timm_model_of_a_part_or_of_another_network(settings):
    assert timm_counterpart(InferenceModel('part', RepViT('m0_9', **settings), BACKBONE)) is None


def test_timm_has_no_m0_6():
    assert timm_counterpart(InferenceModel('m0_6', RepViT('m0_6'), BACKBONE)) is None


def test_a_benchmark_has_a_row_for_every_combination(m0_9, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, '_build', lambda *_: m0_9)
    result = run(SMALL._replace(batch_sizes=(1, 2), backends=('eager', 'onnxruntime'), dtypes=('fp32', 'bf16')))
    assert list(result.latencies) == [
        System('m0_9', implementation, backend, dtype, size) for implementation in (OURS, TIMM)
        for backend, dtype in (('eager', 'fp32'), ('eager', 'bf16'), ('onnxruntime', 'fp32')) for size in (1, 2)]
    assert result.left_out == ['onnxruntime in bf16 on cpu']
    for system, figures in result.latencies.items():
        assert 0 < figures.median <= figures.p95 and figures.samples == 3
        assert figures.images_per_second == pytest.approx(1000 * system.batch_size / figures.median)
        assert figures.speed == result.latencies[system.timms].median / figures.median
    assert result.machine['threads'] == 1 and {'torch', 'timm', 'processor', 'python'} <= set(result.machine)
    assert latency_table(result).row_count == 12 and 'backbone' in machine_line(result)
    plot_latencies(result, tmp_path / 'plot')
    assert (tmp_path / 'plot').read_bytes()[:4] == b'\x89PNG'


def test_figures_are_medians_and_speed_is_relative_to_timm():
    ours, theirs = System('m', OURS, 'eager', 'fp32', 4), System('m', TIMM, 'eager', 'fp32', 4)
    alone = System('n', OURS, 'eager', 'fp32', 1)
    times = {ours: [1., 2., 30.], theirs: [5., 5., 5.], alone: [1.]}
    figures = summarise({system: np.array(values) for system, values in times.items()}, {ours: 7.})
    assert (figures[ours].median, figures[ours].images_per_second, figures[ours].speed) == (2., 2000., 2.5)
    assert 2 < figures[ours].p95 <= 30
    assert (figures[ours].memory, figures[theirs].memory, figures[alone].speed) == (7., None, None)


def test_systems_are_measured_in_turns():
    order = []
    systems = {System(name, OURS, 'eager', 'fp32', 1): lambda name=name: order.append(name) for name in 'abc'}
    times = measure(systems, rounds=4)
    assert all(len(values) == 12 for values in times.values())
    turns = [''.join(order[i:i + 4]) for i in range(9, len(order), 4)]
    assert [sorted(turns[i:i + 3]) for i in range(0, 12, 3)] == [['aaaa', 'bbbb', 'cccc']] * 4


@pytest.mark.parametrize('frozen', [False, True])
def test_a_training_step_is_one_step_of_training(frozen):
    model = InferenceModel('small', RepViT({'widths': (8, 16), 'depths': (1, 1)}, out_indices=(0, 1)), BACKBONE)
    steps = []
    original, torch.optim.SGD.step = torch.optim.SGD.step, lambda self, *args, **kwargs: steps.append(
        [parameter.grad is not None for group in self.param_groups for parameter in group['params']])
    try:
        latency.prepare_training(model, System('small', OURS, 'channels_last', 'bf16', 2), (32, 32), 'cpu', frozen)()
    finally:
        torch.optim.SGD.step = original
    assert len(steps) == 1 and all(steps[0])
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
    result = run(SMALL._replace(configs=['m0_6'], memory=True))
    (figures,) = result.latencies.values()
    assert 100 < figures.memory < 5000


@pytest.mark.parametrize('changes, message', [
    ({'backends': ['tpu']}, "unknown backend 'tpu'; choose from unfused, eager, channels_last, compile, onnx"),
    ({'backends': ['coreml']}, 'coreml needs macOS; docs/benchmark.md'),
    ({'backends': ['onnxruntime'], 'dtypes': ['bf16']}, 'onnxruntime supports fp32 on cpu, not bf16'),
    ({'backends': ['openvino'], 'device': 'cuda'}, 'openvino runs on cpu only, not on cuda'),
    ({'backends': ['onnxruntime'], 'train': True}, 'a training step runs on eager, channels_last, compile'),
    ({'train': True}, '--train needs --batch-size 2 or more'),
    ({'batch_sizes': [0]}, '--batch-size and --rounds must be at least 1'),
    ({'configs': ['m7']}, 'm7 is neither an architecture nor a config; architectures are m0_6, m0_9'),
])
def test_what_cannot_be_measured_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        run(SMALL._replace(**changes))
