"""Running a benchmark, from the request to the figures."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import UserError
from ..export.verification import check_shape
from ..models.inference import InferenceModel
from .backends import check_backend, takes
from .latency import OURS, TIMM, TRAININGS, System, Task, build, describe_machine, implementations
from .limits import Layer, Rates, layers_of, measure
from .turns import Turn

#: Difference of outputs, relative to the largest value, up to which a system is exact: that of rounding.
EXACT = 1e-4


class Request(NamedTuple):
    """What to measure: every combination of the lists.

    Attributes:
        configs: See :func:`repvit_mm.models.inference.build_inference_model`; or files that the backends take.
        shape: Height and width of the images, in pixels.
        batch_sizes: Numbers of images in a batch.
        backends: Keys of :data:`repvit_mm.analysis.backends.BACKENDS`, of a training step those of
            :data:`repvit_mm.analysis.latency.TRAININGS`.
        dtypes: Precisions, as in :data:`repvit_mm.analysis.backends.BACKENDS`.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads; torch's default if None.
        rounds: How many times each system has its turn.
        train: Measure a training step instead of inference.
        frozen_statistics: See :func:`repvit_mm.analysis.latency.prepare_training`.
        timm: Measure timm's models, too.
        within: Difference of outputs that a recommended system may have.
    """

    configs: Sequence[str]
    shape: Sequence[int] = (224, 224)
    batch_sizes: Sequence[int] = (1,)
    backends: Sequence[str] = ('eager',)
    dtypes: Sequence[str] = ('fp32',)
    device: str = 'cpu'
    threads: int | None = None
    rounds: int = 20
    train: bool = False
    frozen_statistics: bool = False
    timm: bool = True
    within: float = 0.05


class Latency(NamedTuple):
    """Figures of a system.

    Attributes:
        median: In milliseconds.
        low: First quartile, in milliseconds.
        high: Third quartile.
        samples: Number of calls.
        images_per_second: From the median.
        speed: Relative to the first of timm's systems with the same model and batch size, from the medians; None if
            timm lacks the model.
        limit: Share of what the machine could do at most, see :class:`repvit_mm.analysis.limits.Rates`.
        memory: Peak in MB: on a GPU, what the system allocated; on a CPU, the resident memory of its process.
        difference: Of its outputs, see :func:`repvit_mm.analysis.latency.difference`.
        activations: What a training step keeps for its backward pass, in MB.
    """

    median: float
    low: float
    high: float
    samples: int
    images_per_second: float
    speed: float | None = None
    limit: float | None = None
    memory: float | None = None
    difference: float | None = None
    activations: float | None = None


class BenchmarkResult(NamedTuple):
    """The figures of a benchmark.

    Attributes:
        request: What was to be measured.
        latencies: System -> figures, in the order of the request.
        machine: Machine and versions.
        rates: What the machine did at most, in the same run.
        covers: Model -> the measured part of it.
        left_out: Unsupported combinations, one line each.
    """

    request: Request
    latencies: dict[System, Latency]
    machine: dict[str, Any]
    rates: Rates
    covers: dict[str, str]
    left_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'request': self.request._asdict(), 'machine': self.machine, 'rates': self.rates._asdict(),
                'covers': self.covers, 'left_out': self.left_out,
                'systems': [{**system._asdict(), **figures._asdict()} for system, figures in self.latencies.items()]}

    def recommended(self, model: str, batch_size: int, difference: float) -> System | None:
        """The fastest of our systems whose outputs differ by so much at most."""
        fit = [system for system, figures in self.latencies.items()
               if (system.model, system.implementation, system.batch_size) == (model, OURS, batch_size)
               and figures.difference is not None and figures.difference <= difference]
        return min(fit, key=lambda system: self.latencies[system].median, default=None)


def run(request: Request) -> BenchmarkResult:
    """Run a benchmark.

    Raises:
        UserError: If a part of the request does not exist or is not supported on this machine.
    """
    usable = {name: _usable(name, request) for name in request.backends}
    left_out = [f'{name} in {dtype} on {request.device}' for name, dtypes in usable.items()
                for dtype in request.dtypes if dtype not in dtypes]
    threads = request.threads or torch.get_num_threads()
    models = {source: _checked(source, request) for source in request.configs}
    tasks = {}
    for source, model in models.items():
        for implementation, one in implementations(model, request.timm).items():
            for backend in request.backends:
                if request.train and TRAININGS[backend].cheap and implementation == TIMM or not takes(backend, one):
                    continue
                for system in (System(model.name, implementation, backend, dtype, size)
                               for dtype in usable[backend] for size in request.batch_sizes):
                    tasks[system] = Task(source, system, request.shape, request.device, threads, request.train,
                                         request.frozen_statistics)
    results, rates = measure(tasks, request.dtypes, request.device, threads, request.rounds)
    layers = {(model.name, size): layers_of(model, request.shape, size) for model in models.values()
              for size in request.batch_sizes if isinstance(model, InferenceModel)}
    covers = {model.name: model.task.covers for model in models.values() if isinstance(model, InferenceModel)}
    return BenchmarkResult(request, summarise(results, layers, rates, request.train),
                           describe_machine(request.device, threads), rates, covers, left_out)


def _usable(backend: str, request: Request) -> list[str]:
    if request.train and backend not in TRAININGS:
        raise UserError(f'a training step runs on {", ".join(TRAININGS)}, not on {backend}')
    dtypes = (list(request.dtypes) if request.train else
              check_backend(backend, request.device, list(request.dtypes)))
    if request.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no usable GPU')
    if request.train and not request.frozen_statistics and min(request.batch_sizes) == 1:
        raise UserError('--train needs --batch-size 2 or more for the statistics of the BatchNorms, or '
                        '--frozen-statistics')
    return dtypes


def _checked(source: str, request: Request) -> InferenceModel | Path:
    model = build(source)
    if isinstance(model, InferenceModel):
        check_shape(model, request.shape)
    elif not model.is_file():
        raise UserError(f'there is no file {model}')
    elif request.train:
        raise UserError(f'--train: {model} cannot be trained; give a config or an architecture')
    elif not any(takes(backend, model) for backend in request.backends):
        raise UserError(f'{model} is for none of the backends {", ".join(request.backends)}')
    return model


def summarise(results: Mapping[System, tuple[Mapping[str, float], Turn]],
              layers: Mapping[tuple[str, int], Sequence[Layer]], rates: Rates, train: bool) -> dict[System, Latency]:
    """Compute the figures.

    Args:
        results: What :func:`repvit_mm.analysis.turns.take_turns` gave.
        layers: Model and batch size -> the layers of the fused model.
        rates: Of the machine.
        train: Whether the calls were training steps, which compute gradients of inputs and of weights, too: three
            times the work.
    """
    medians = {system: float(np.median(turn.times)) for system, (_, turn) in results.items()}
    latencies = {}
    for system, (facts, turn) in results.items():
        median, key = medians[system], (system.model, system.batch_size)
        baseline = next((value for other, value in medians.items()
                         if other.implementation == TIMM and (other.model, other.batch_size) == key), None)
        least = rates.seconds(layers[key], system.dtype) if key in layers else None
        low, high = np.percentile(turn.times, [25, 75])
        latencies[system] = Latency(
            median, float(low), float(high), len(turn.times), 1000 * system.batch_size / median,
            None if baseline is None else baseline / median,
            None if least is None else 1000 * least * (3 if train else 1) / median, turn.report, **facts)
    return latencies
