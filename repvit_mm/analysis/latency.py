"""Measuring the latency of models side by side. docs/benchmark.md describes the protocol."""
import copy
import os
import platform
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbone import RepViT
from ..fusion import fuse
from ..inference import InferenceModel
from .backends import BACKENDS, DTYPES

OURS, TIMM = 'repvit_mm', 'timm'
#: Timed calls in each turn of a system, after one that is not timed.
CALLS_PER_TURN = 3
WARMUP_SECONDS = 0.5


class System(NamedTuple):
    """What is measured: a model, and how it is run.

    Attributes:
        model: Name of the model.
        implementation: :data:`OURS` or :data:`TIMM`.
        backend: A key of :data:`repvit_mm.analysis.backends.BACKENDS`.
        dtype: A key of :data:`repvit_mm.analysis.backends.DTYPES`.
        batch_size: Number of images.
    """

    model: str
    implementation: str
    backend: str
    dtype: str
    batch_size: int

    @property
    def timms(self) -> 'System':
        """The same for timm's model."""
        return self._replace(implementation=TIMM)


class Latency(NamedTuple):
    """Figures of a system.

    Attributes:
        median: In milliseconds.
        p95: 95th percentile, in milliseconds.
        samples: Number of calls.
        images_per_second: From the median.
        memory: Peak in MB, None if not measured. On a GPU, the memory that the system allocated; on a CPU, the
            resident memory of a process that runs only this system.
        speed: Relative to timm's model in the same run, from the medians; None if timm lacks the model.
    """

    median: float
    p95: float
    samples: int
    images_per_second: float
    memory: float | None
    speed: float | None


class TimmModel(nn.Module):
    """timm's model with the interface of ours.

    Args:
        model: timm's model.
        features: Stop before pooling and head.
    """

    def __init__(self, model: nn.Module, features: bool):
        super().__init__()
        self.model, self.features = model, features
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(N, channels, H, W) -> one tensor."""
        return (self.model.forward_features(image) if self.features else self.model(image),)


def timm_counterpart(model: InferenceModel) -> TimmModel | None:
    """timm's unfused model of the same network, with random weights; None if timm lacks it or is not installed."""
    backbone, features = model.backbone, isinstance(model.model, RepViT)
    is_whole = backbone.out_strides[-1] == 32 and (backbone.feature_tap == 'stage_end' or not features)
    name = f'repvit_{backbone.arch}'
    if not is_whole or not (features or model.task.decision == 'softmax'):
        return None
    try:
        import timm
    except ModuleNotFoundError:
        return None
    if not timm.is_model(name):
        return None
    classes = 0 if features else model.model.head.num_classes
    return TimmModel(timm.create_model(name, num_classes=classes, in_chans=model.in_channels), features)


def fuse_any(model: nn.Module) -> nn.Module:
    """A fused copy of one of our models, or of timm's."""
    if isinstance(model, TimmModel):
        from timm.utils import reparameterize_model
        return TimmModel(reparameterize_model(model.model), model.features)
    return fuse(model)


def prepare(model: nn.Module, system: System, shape: Sequence[int], device: str, threads: int) -> Callable[[], Any]:
    """Make a copy of a model ready to be measured."""
    generator = torch.Generator().manual_seed(0)
    channels = model.in_channels if isinstance(model, InferenceModel) else 3
    image = torch.randn(system.batch_size, channels, *shape, generator=generator).to(device)
    backend = BACKENDS[system.backend]
    ready = (fuse_any(model) if backend.fused else copy.deepcopy(model)).to(device).requires_grad_(False)
    return backend.prepare(ready, image, system.dtype, threads)


def prepare_training(model: nn.Module, system: System, shape: Sequence[int], device: str,
                     frozen_statistics: bool) -> Callable[[], Any]:
    """Prepare a training step: forward, backward, SGD; with bf16 and fp16 in mixed precision.

    Args:
        model: The model; not modified.
        system: One of torch's backends.
        shape: Height and width of the images, in pixels.
        device: ``'cpu'`` or ``'cuda'``.
        frozen_statistics: Let BatchNorms use their running statistics, as in training for dense tasks.
    """
    layout = torch.contiguous_format if system.backend == 'eager' else torch.channels_last
    model = copy.deepcopy(model).to(device, memory_format=layout).train()
    image = torch.randn(system.batch_size, 3, *shape).to(device, memory_format=layout)
    if frozen_statistics:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    run = torch.compile(model) if system.backend == 'compile' else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    # torch before 2.3 has only the one for CUDA.
    kind = partial(torch.amp.GradScaler, device) if hasattr(torch.amp, 'GradScaler') else torch.cuda.amp.GradScaler
    scaler = kind(enabled=system.dtype == 'fp16')

    def step() -> None:
        with torch.autocast(device, DTYPES[system.dtype], enabled=system.dtype != 'fp32'):
            loss = sum(output.float().mean() for output in run(image))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return step


def measure(calls: Mapping[System, Callable[[], Any]], rounds: int, device: str = 'cpu') -> dict[System, np.ndarray]:
    """Measure systems in turns, so that other load on the machine affects all of them alike.

    Args:
        calls: System -> function that runs it once.
        rounds: Turns of each system, shuffled each time.
        device: The device to synchronise with.

    Returns:
        System -> duration of each call, in milliseconds.
    """
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None

    def timed(call: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        call()
        wait()
        return 1000 * (time.perf_counter() - start)

    for call in track(calls.values(), description='warming up'):
        start = time.perf_counter()
        for _ in range(3):
            call()
        while time.perf_counter() - start < WARMUP_SECONDS:
            call()
    times: dict[System, list[float]] = {system: [] for system in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    for _ in track(range(rounds), description='measuring'):
        shuffle(order)
        for system in order:
            calls[system]()
            times[system] += [timed(calls[system]) for _ in range(CALLS_PER_TURN)]
    return {system: np.array(values) for system, values in times.items()}


def summarise(times: Mapping[System, np.ndarray], memory: Mapping[System, float]) -> dict[System, Latency]:
    """Compute the figures from the durations of the calls."""
    medians = {system: float(np.median(values)) for system, values in times.items()}
    return {system: Latency(
        median=medians[system], p95=float(np.percentile(values, 95)), samples=len(values),
        images_per_second=1000 * system.batch_size / medians[system], memory=memory.get(system),
        speed=medians[system.timms] / medians[system] if system.timms in medians else None)
        for system, values in times.items()}


def gpu_memory(make: Callable[[], Callable[[], Any]]) -> tuple[Callable[[], Any], float]:
    """Prepare a system; returns its call and its peak of allocated GPU memory, in MB."""
    before = torch.cuda.memory_allocated()
    call = make()
    for _ in range(3):  # tuning and compiling take memory that is not needed later
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return call, (torch.cuda.max_memory_allocated() - before) / 1e6


def peak_resident_memory() -> float:
    """Peak resident memory of this process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == 'darwin' else peak / 1e3


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    packages = ('torch', 'timm', 'onnxruntime', 'openvino', 'coremltools', 'repvit-mm')
    facts: dict[str, Any] = {'device': device, 'processor': _processor(), 'cores': os.cpu_count(), 'threads': threads,
                             'system': platform.platform(), 'python': platform.python_version()}
    if device == 'cuda':
        facts.update(gpu=torch.cuda.get_device_name(), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
                     tf32_convolutions=torch.backends.cudnn.allow_tf32)
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.partition(':')[2].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
