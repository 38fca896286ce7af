"""Acceptance on a GPU, `make check-gpu`: everything that trains, tests and measures, beside the CPU's results.

`make check-gpu DEVICE=cpu` rehearses it: the same tests with less to do.
"""
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import tool_runs
import torch
from oracles import randomise_norms
from running import TOOLS, run_tool

from repvit_mm import ARCHS, RepViT, fuse
from repvit_mm.datasets.shapes import write_classification, write_coco, write_segmentation
from repvit_mm.ops import extension

pytestmark = pytest.mark.gpu
#: Where the figures of the throughput are left.
RESULTS = TOOLS.parent / 'work_dirs' / 'check_gpu'


class Extent(NamedTuple):
    """How much is done.

    Attributes:
        compile: Settings of torch.compile.
        quickstart: Options of the quickstart.
        mask_ap50: What its detector has to reach.
        throughput: Options of the benchmark.
    """

    compile: dict
    quickstart: list[str]
    mask_ap50: float
    throughput: list[str]


EXTENTS = {
    'cuda': Extent({}, [], 0.6, ['--precision', 'fp16', '--rounds', '10']),
    'cpu': Extent(dict(backend='eager'), [
        '--train-scenes', '6', '--val-scenes', '2', '--cfg-options', 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'train_dataloader.batch_size=2'], 0., ['--rounds', '1', '--shape', '64', '64'])}
#: Of a training.
STEPS = 50

#: Task -> a quickstart's config, what draws its data set, a loss that falls, and a figure of its evaluation. A
#: detector's losses of boxes grow at first, with the number of boxes that they are of.
TASKS = {
    'detection': ('maskrcnn_repvit_m0_6_shapes', write_coco, 'loss_rpn_cls', 'coco/segm_mAP'),
    'segmentation': ('fpn_repvit_m0_6_shapes', write_segmentation, 'loss', 'mIoU'),
    'classification': ('classifier_repvit_m0_6_shapes', write_classification, 'loss', 'accuracy/top1'),
}
#: How a training computes -> whether in channels_last, in which mixed precision, and whether compiled.
WAYS = {'fp32': (False, None, False), 'channels_last': (True, None, False), 'fp16': (True, 'float16', False),
        'bf16': (True, 'bfloat16', False), 'compiled': (True, 'bfloat16', True)}
#: What is measured -> the benchmark's options and batch sizes, and those of a rehearsal.
MEASUREMENTS = {
    'inference': (['--backend', 'eager', 'channels_last', 'compile'], ('1', '256'), ('1', '2')),
    'training': (['--train', '--backend', 'eager', 'channels_last'], ('256', ), ('2', )),
    'frozen_statistics': (['--train', '--frozen-statistics', '--backend', 'eager', 'channels_last'], ('1', '256'),
                          ('1', '2')),
}


@pytest.fixture(scope='module')
def device(request):
    return request.config.getoption('--device')


@pytest.fixture(scope='module')
def extent(device):
    return EXTENTS[device]


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """Convolutions of a GPU in float32, which is not what cuDNN does unasked."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture(scope='module', autouse=True)
def quickstart(extent, tmp_path_factory):
    """The quickstart, from the beginning on in a process beside the tests."""
    folder = tmp_path_factory.mktemp('quickstart')
    with (folder / 'output').open('w') as output:
        process = subprocess.Popen([sys.executable, TOOLS / 'quickstart.py', '--work-dir', folder / 'run',
                                    *extent.quickstart], stdout=output, stderr=output)
    yield folder, process
    process.terminate()
    process.wait()


def call(tool: str, *arguments) -> None:
    """Run a tool in this process."""
    status, out, error = run_tool(tool, *arguments)
    assert status == 0, out + error


class Trained(NamedTuple):
    """A training: its config, data set, results, and how it is done again."""

    config: Path
    arguments: list
    work_dir: Path
    losses: list[float]
    score: float


@pytest.fixture(scope='module')
def train(extent, tmp_path_factory) -> Callable[[str, str], Trained]:
    """Train a task in one of the ways, once."""
    root = tmp_path_factory.mktemp('training')

    @cache
    def data(task: str) -> Path:
        return TASKS[task][1](root / task, train=64, val=8, quiet=True)

    @cache
    def train(task: str, way: str) -> Trained:
        (name, _, loss, score), (channels_last, dtype, compiled) = TASKS[task], WAYS[way]
        config, work_dir = root / f'{task}_{way}.py', root / f'{task}_{way}'
        tool_runs.write_config(config, name, f"""
train_dataloader['sampler'] = dict(_delete_=True, type='InfiniteSampler')
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters={STEPS}, val_interval={STEPS})
param_scheduler = []
log_processor = dict(by_epoch=False, window_size=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(
    _delete_=True, type='CheckpointHook', by_epoch=False, interval={STEPS}))
custom_hooks = {[dict(type='ChannelsLast')] * channels_last}
compile = {extent.compile if compiled else False}
{f'optim_wrapper = dict(dtype={dtype!r})' if dtype else ''}
""", batch_size=8)
        arguments = ['--data-root', data(task), '--seed', 0]
        call('train', config, '--work-dir', work_dir, *['--amp'] * bool(dtype), *arguments)
        lines = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
        assert all(math.isfinite(line['loss']) for line in lines[:-1])
        return Trained(config, arguments, work_dir, [line[loss] for line in lines[:-1]], lines[-1][score])
    return train


def on(device: str, function: Callable, tensors: list, gradients: int) -> list:
    """The result of a function on a device, and the gradients of its first tensors."""
    dtype = torch.float64 if device == 'exact' else torch.float32
    place = dict(device='cpu' if device == 'exact' else device)
    tensors = [x.detach().to(**place, dtype=dtype if x.is_floating_point() else x.dtype) for x in tensors]
    leaves = [x.requires_grad_() for x in tensors[:gradients]]
    result = function(*tensors)
    slope = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).view(result.shape).to(result)
    found = [result, *(torch.autograd.grad((result * slope).sum(), leaves) if leaves else [])]
    return [x.detach().cpu().double() for x in found]


def differs(found: list, expected: list, bound: float, least: float) -> bool:
    """Whether tensors differ by more than a part of the largest value, which counts as ``least`` at least."""
    return any(one.numel() and (one - other).abs().max() > bound * other.abs().max().clamp(min=least)
               for one, other in zip(found, expected, strict=True))


def test_operators_are_those_of_the_cpu(device):
    from mmcv import ops
    from operator_cases import CASES, boxes, operators_of
    torch.manual_seed(0)
    cases = {f'{name} {row}': case for name, rows in CASES.items() for row, case in rows.items()}
    tensors = {name: case.tensors(2) for name, case in cases.items()}
    found, scores = boxes(500, 100).float(), torch.rand(500)
    with operators_of(extension):
        assert not [name for name, case in cases.items() if differs(
            *(on(place, case.call, tensors[name], case.gradients) for place in (device, 'exact')), 1e-4, 1)]
        _, kept = ops.nms(found.to(device), scores.to(device), 0.5)
        _, expected = ops.nms(found.double(), scores.double(), 0.5)
    assert torch.equal(kept.cpu(), expected) and 10 < len(kept) < 490


@pytest.mark.parametrize('arch', ARCHS)
def test_network_is_that_of_the_cpu(device, arch):
    torch.manual_seed(0)
    model = randomise_norms(RepViT(arch)).train()
    image = torch.randn(8, 3, 64, 64)
    outputs, gradients = [], []
    for place, dtype in ((device, torch.float32), ('cpu', torch.float64)):
        one = deepcopy(model).to(place, dtype)
        maps = one(image.to(place, dtype))
        sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape).to(x)).mean() for x in maps).backward()
        fused = fuse(one.eval())(image.to(place, dtype))
        outputs.append([x.detach().cpu().double() for x in (*maps, *fused)])
        gradients.append([parameter.grad.cpu().double() for parameter in one.parameters()])
    assert not differs(*outputs, 1e-3, 0)
    # Of a bias before a BatchNorm nothing but rounding is left.
    assert not differs(*gradients, 5e-3, 0.01 * max(gradient.abs().max() for gradient in gradients[1]))


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('task', TASKS)
def test_training_learns(train, device, task, way):
    if device == 'cpu' and way == 'fp16':
        pytest.skip('mixed precision on a CPU is bfloat16')
    if task == 'detection' and way == 'compiled':
        pytest.skip("a detector's proposals are of another number in every step, and each would be compiled")
    trained = train(task, way)
    part = STEPS // 4
    assert len(trained.losses) == STEPS
    assert sum(trained.losses[-part:]) < 0.95 * sum(trained.losses[:part])
    assert math.isfinite(trained.score)


@pytest.mark.parametrize('task', TASKS)
def test_evaluation_is_that_of_the_training_fused_too(train, task, tmp_path):
    trained = train(task, 'fp32')
    checkpoint = trained.work_dir / f'iter_{STEPS}.pth'
    call('fuse', trained.config, checkpoint, tmp_path / 'fused.pth')
    for path in (checkpoint, tmp_path / 'fused.pth'):
        call('test', trained.config, path, '--work-dir', tmp_path / path.stem, *trained.arguments)
        figures = json.loads(next((tmp_path / path.stem).glob('*/*.json')).read_text())
        assert figures[TASKS[task][3]] == pytest.approx(trained.score, abs=2e-3)


def test_distributed_training(train, device, tmp_path):
    trained = train('classification', 'fp32')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    run = subprocess.run([TOOLS / 'dist_train.sh', trained.config, '1', '--work-dir', tmp_path,
                          *map(str, trained.arguments)], capture_output=True, text=True, timeout=300,
                         env={**os.environ, 'PYTHON': sys.executable, 'PORT': port, 'NCCL_DEBUG': 'INFO'})
    assert run.returncode == 0, run.stderr
    assert ('NCCL version' in run.stdout + run.stderr) == (device == 'cuda')
    assert (tmp_path / f'iter_{STEPS}.pth').is_file()


def test_quickstart_reaches_its_precision(quickstart, extent):
    folder, process = quickstart
    assert process.wait(timeout=600) == 0, (folder / 'output').read_text()
    figures = json.loads(next((folder / 'run/test').glob('*/*.json')).read_text())
    assert figures['coco/segm_mAP_50'] >= extent.mask_ap50


@pytest.mark.parametrize('name', MEASUREMENTS)
def test_throughput_is_measured_beside_timm(device, extent, name):
    options, sizes, small = MEASUREMENTS[name]
    RESULTS.mkdir(parents=True, exist_ok=True)
    run = subprocess.run([sys.executable, TOOLS / 'benchmark.py', 'm1_1', '--device', device, *options,
                          '--batch-size', *(sizes if device == 'cuda' else small), *extent.throughput,
                          '--json', RESULTS / f'{name}.json'], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (RESULTS / f'{name}.txt').write_text(run.stdout)
    systems = json.loads((RESULTS / f'{name}.json').read_text())['systems']
    assert {system['implementation'] for system in systems} == {'repvit_mm', 'timm'}
    assert all(math.isfinite(system['median']) for system in systems)
