"""Running a benchmark, from the request to the figures."""
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import nn

from ..errors import UserError
from ..export.verification import check_shape
from ..inference import InferenceModel, build_inference_model, randomise_weights
from .backends import check_backend, takes
from .latency import (
    OURS,
    TIMM,
    Latency,
    System,
    describe_machine,
    gpu_memory,
    measure,
    peak_resident_memory,
    prepare,
    prepare_training,
    summarise,
    timm_counterpart,
)

#: Backends that a training step runs on.
TRAINING_BACKENDS = ('eager', 'channels_last', 'compile')


class Request(NamedTuple):
    """What to measure: every combination of the lists.

    Attributes:
        configs: See :func:`repvit_mm.inference.build_inference_model`.
        shape: Height and width of the images, in pixels.
        batch_sizes: Numbers of images in a batch.
        backends: Keys of :data:`repvit_mm.analysis.backends.BACKENDS`.
        dtypes: Keys of :data:`repvit_mm.analysis.backends.DTYPES`.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads; torch's default if None.
        rounds: How many times each system has its turn.
        train: Measure a training step instead of inference.
        frozen_statistics: See :func:`repvit_mm.analysis.latency.prepare_training`.
        memory: Measure the peak memory on a CPU, too; on a GPU it always is.
        timm: Measure timm's models, too.
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
    memory: bool = False
    timm: bool = True


class BenchmarkResult(NamedTuple):
    """The figures of a benchmark.

    Attributes:
        request: What was to be measured.
        latencies: System -> figures, in the order of the request.
        machine: Machine and versions.
        covers: Model -> the measured part of it.
        left_out: Unsupported combinations, one line each.
    """

    request: Request
    latencies: dict[System, Latency]
    machine: dict[str, Any]
    covers: dict[str, str]
    left_out: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'request': self.request._asdict(), 'machine': self.machine, 'covers': self.covers,
                'left_out': self.left_out,
                'systems': [{**system._asdict(), **figures._asdict()} for system, figures in self.latencies.items()]}


def run(request: Request) -> BenchmarkResult:
    """Run a benchmark.

    Raises:
        UserError: If a part of the request does not exist or is not supported on this machine.
    """
    usable = {name: _usable(name, request) for name in request.backends}
    left_out = [f'{name} in {dtype} on {request.device}' for name, dtypes in usable.items()
                for dtype in request.dtypes if dtype not in dtypes]
    torch.set_num_threads(request.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    models = {(model.name, implementation): one for config in request.configs
              for model in [_build(config, request)] for implementation, one in _implementations(model, request)}
    systems = [System(name, implementation, backend, dtype, batch_size)
               for (name, implementation), model in models.items() for backend in request.backends
               for dtype in usable[backend] for batch_size in request.batch_sizes if takes(backend, model)]
    calls, memory = {}, {}
    for system in track(systems, description='preparing'):
        make = _maker(models[system.model, system.implementation], system, request)
        if request.device == 'cuda':
            calls[system], memory[system] = gpu_memory(make)
        else:
            calls[system] = make()
            if request.memory:
                memory[system] = _memory_of(system, request)
    latencies = summarise(measure(calls, request.rounds, request.device), memory)
    covers = {name: model.task.covers for (name, implementation), model in models.items() if implementation == OURS}
    machine = describe_machine(request.device, torch.get_num_threads())
    return BenchmarkResult(request, latencies, machine, covers, left_out)


def _usable(backend: str, request: Request) -> list[str]:
    dtypes = check_backend(backend, request.device, list(request.dtypes))
    if request.train and backend not in TRAINING_BACKENDS:
        raise UserError(f'a training step runs on {", ".join(TRAINING_BACKENDS)}, not on {backend}')
    if request.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no usable GPU')
    if min(request.batch_sizes) < 1 or request.rounds < 1:
        raise UserError('--batch-size and --rounds must be at least 1')
    if request.train and not request.frozen_statistics and min(request.batch_sizes) == 1:
        raise UserError('--train needs --batch-size 2 or more for the statistics of the BatchNorms, or '
                        '--frozen-statistics')
    return dtypes


def _build(config: str, request: Request) -> InferenceModel:
    model = build_inference_model(config)
    check_shape(model, request.shape)
    randomise_weights(model)
    return model


def _implementations(model: InferenceModel, request: Request) -> list[tuple[str, nn.Module]]:
    timms = timm_counterpart(model) if request.timm else None
    return [(OURS, model)] + ([(TIMM, timms)] if timms is not None else [])


def _maker(model: nn.Module, system: System, request: Request) -> Callable[[], Callable[[], Any]]:
    if request.train:
        return lambda: prepare_training(model, system, request.shape, request.device, request.frozen_statistics)
    return lambda: prepare(model, system, request.shape, request.device, torch.get_num_threads())


def _memory_of(system: System, request: Request) -> float:
    """Peak resident memory, in MB, of a new process that runs only this system."""
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    config = next(config for config in request.configs if build_name(config) == system.model)
    process = context.Process(target=_run_alone, args=(theirs, config, system, request))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise UserError(f'the process that measures the memory of {" ".join(map(str, system))} died') from error
    finally:
        process.join()


def build_name(config: str) -> str:
    """The name of a config's model in the figures."""
    from pathlib import Path
    return Path(config).stem if config.endswith('.py') else config


def _run_alone(connection: Connection, config: str, system: System, request: Request) -> None:
    torch.set_num_threads(request.threads or torch.get_num_threads())
    model = dict(_implementations(_build(config, request), request))[system.implementation]
    call = _maker(model, system, request)()
    for _ in range(3):
        call()
    connection.send(peak_resident_memory())
