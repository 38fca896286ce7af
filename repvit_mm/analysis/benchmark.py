"""Running a benchmark, from the request to the figures."""
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from rich.table import Table

from ..errors import UserError
from ..export.prepare import check_shape
from ..models.inference import InferenceModel
from ..version import __version__
from .backends import BACKENDS, TRAININGS, supported_dtypes
from .systems import OURS, TIMM, Request, System, implementations, prepare, random_model

#: Calls of a measurement, after as many that are not timed.
CALLS = 3
#: Seconds before them: onnxruntime's threads spin for about 0.06 s after a call.
PAUSE = 0.1


class Latency(NamedTuple):
    """Figures of a system.

    Attributes:
        median: Median of the measurements, in milliseconds.
        low: First quartile, in milliseconds.
        high: Third quartile, in milliseconds.
        samples: Number of measurements.
        images_per_second: Throughput by the median.
        speed: Relative to the first of timm's systems with the same model and batch size, by the medians; None if
            timm lacks the model.
        difference: See :func:`repvit_mm.analysis.systems.difference`.
        activations: Memory that a training step keeps for its backward pass, in MB.
    """

    median: float
    low: float
    high: float
    samples: int
    images_per_second: float
    speed: float | None = None
    difference: float | None = None
    activations: float | None = None


class BenchmarkResult(NamedTuple):
    """The figures of a benchmark.

    Attributes:
        request: The request.
        latencies: System -> figures, in the order of the request.
        machine: Machine and versions.
        left_out: Unsupported combinations, one line each.
    """

    request: Request
    latencies: dict[System, Latency]
    machine: dict[str, Any]
    left_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {'request': self.request._asdict(), 'machine': self.machine, 'left_out': self.left_out,
                'systems': [{**system._asdict(), **figures._asdict()} for system, figures in self.latencies.items()]}


def run(request: Request) -> BenchmarkResult:
    """Run a benchmark in this process, with its number of threads.

    Raises:
        UserError: If a part of the request does not exist or is not supported on this machine.
    """
    dtypes = {name: list(request.dtypes) if request.train else supported_dtypes(name, request.device, request.dtypes)
              for name in request.backends}
    _check(request)
    request = request._replace(threads=request.threads or torch.get_num_threads())
    torch.set_num_threads(request.threads)
    torch.backends.cudnn.benchmark = True
    systems = {}
    for model in [_model_of(source, request) for source in request.configs]:
        for implementation, chosen in implementations(model, request.timm).items():
            is_ours = implementation == OURS
            for backend in request.backends:
                if is_ours or backend != 'cheap' if request.train else BACKENDS[backend].runs(chosen, is_ours):
                    systems |= {System(model.name, implementation, backend, dtype, size): (model, chosen)
                                for dtype in dtypes[backend] for size in request.batch_sizes}
    prepared = {system: prepare(*models, system, request)
                for system, models in track(systems.items(), description='preparing')}
    times = time_in_turns({system: call for system, (call, _) in prepared.items()}, request.rounds)
    return BenchmarkResult(
        request, summarise({system: (details, times[system]) for system, (_, details) in prepared.items()}),
        describe_machine(request.device, request.threads),
        [f'{name} in {dtype}' for name, usable in dtypes.items() for dtype in request.dtypes if dtype not in usable])


def time_in_turns(calls: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Measure functions in turns, so that other load on the machine affects all of them alike.

    Args:
        calls: Key -> function.
        rounds: Measurements of each function.

    Returns:
        Key -> milliseconds of a call, of each round.
    """
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in track(range(rounds), description='measuring'):
        for key, call in calls.items():
            time.sleep(PAUSE)
            for _ in range(CALLS):
                call()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[key].append(1000 * (time.perf_counter() - start) / CALLS)
    return times


def _check(request: Request) -> None:
    if request.train and (unknown := [name for name in request.backends if name not in TRAININGS]):
        raise UserError(f'a training step runs on {", ".join(TRAININGS)}, not on {unknown[0]}')
    if request.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no usable GPU')


def _model_of(source: str, request: Request) -> InferenceModel | Path:
    model = random_model(source)
    if isinstance(model, InferenceModel):
        check_shape(model, request.shape)
    elif not model.is_file():
        raise UserError(f'there is no file {model}')
    elif request.train:
        raise UserError(f'--train: {model} cannot be trained; give a config or an architecture')
    elif not any(BACKENDS[name].runs(model, True) for name in request.backends):
        raise UserError(f'{model} is for none of the backends {", ".join(request.backends)}')
    return model


def summarise(results: Mapping[System, tuple[Mapping[str, float], Sequence[float]]]) -> dict[System, Latency]:
    """Compute the figures from the details and the times of each system."""
    medians = {system: float(np.median(times)) for system, (_, times) in results.items()}
    latencies = {}
    for system, (details, times) in results.items():
        median = medians[system]
        baseline = next((value for other, value in medians.items() if other.implementation == TIMM
                         and (other.model, other.batch_size) == (system.model, system.batch_size)), None)
        low, high = np.percentile(times, [25, 75])
        latencies[system] = Latency(median, float(low), float(high), len(times), 1000 * system.batch_size / median,
                                    baseline and baseline / median, **details)
    return latencies


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    info = Path('/proc/cpuinfo').read_text() if sys.platform == 'linux' else ''
    processor = info.partition('model name')[2].partition('\n')[0].strip(' \t:') or platform.processor()
    machine = {'device': device, 'processor': processor, 'cores': os.cpu_count(), 'threads': threads,
               'system': platform.platform(), 'python': platform.python_version(), 'repvit-mm': __version__}
    if device == 'cuda':
        machine |= {'gpu': torch.cuda.get_device_name(), 'cuda': torch.version.cuda,
                    'cudnn': torch.backends.cudnn.version(), 'tf32_convolutions': torch.backends.cudnn.allow_tf32}
    return machine | {package: version(package) for package in ('torch', 'timm', 'onnxruntime', 'openvino')
                      if find_spec(package) is not None}


def latency_table(result: BenchmarkResult) -> Table:
    """A row for each system."""
    request = result.request
    what = ('Training step' + ' on frozen statistics' * request.frozen_statistics if request.train else
            'Inference, fused')
    table = Table('model', 'of', 'backend', 'dtype',
                  title=f'{what}, {request.shape[0]} x {request.shape[1]} pixels, {request.device}')
    table.columns[2].no_wrap = True
    for header in ('batch', 'median ms', 'quartiles', 'images/s', 'kept MB' if request.train else 'difference',
                   'speed / timm'):
        table.add_column(header, justify='right')
    for system, figures in result.latencies.items():
        special = _cell(figures.activations, '.0f') if request.train else _cell(figures.difference, '.0e')
        table.add_row(system.model, system.implementation, system.backend, system.dtype, str(system.batch_size),
                      f'{figures.median:.2f}', f'{figures.low:.2f}-{figures.high:.2f}',
                      f'{figures.images_per_second:.1f}', special,
                      _cell(figures.speed, '.2f'), style='dim' if system.implementation == TIMM else None)
    return table


def _cell(value: float | None, form: str) -> str:
    return '-' if value is None else f'{value:{form}}'
