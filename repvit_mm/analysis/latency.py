"""What is measured: models of ours and of timm, made ready to run. docs/benchmark.md describes the protocol."""
import copy
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import ARCHS
from ..checkpoints import convert_state_dict
from ..errors import UserError
from ..memory import keep_freed_memory
from ..models.inference import BACKBONE, InferenceModel, build_inference_model, randomise_weights
from ..network.backbone import RepViT
from ..network.fusion import fuse
from ..version import __version__
from .backends import BACKENDS, Source
from .limits import DTYPES, finished
from .turns import Prepared

OURS, TIMM = 'repvit_mm', 'timm'


class System(NamedTuple):
    """What is measured: a model, and how it is run.

    Attributes:
        model: Name of the model.
        implementation: :data:`OURS` or :data:`TIMM`.
        backend: A key of :data:`repvit_mm.analysis.backends.BACKENDS` or :data:`TRAININGS`.
        dtype: The precision, as in :data:`repvit_mm.analysis.backends.BACKENDS`.
        batch_size: Number of images.
    """

    model: str
    implementation: str
    backend: str
    dtype: str
    batch_size: int


class Training(NamedTuple):
    """A way to run a training step.

    Attributes:
        channels_last: The memory format.
        keeps_memory: Whether the process keeps freed memory, as our tools do.
        compiled: Whether by torch.compile.
        cheap: Whether with ``with_cp='cheap'``, for which timm has nothing.
    """

    channels_last: bool = True
    keeps_memory: bool = True
    compiled: bool = False
    cheap: bool = False


#: Name -> way of training.
TRAININGS = {'eager': Training(channels_last=False, keeps_memory=False), 'channels_last': Training(keeps_memory=False),
             'tools': Training(), 'cheap': Training(cheap=True), 'compile': Training(compiled=True)}


def build(source: str) -> InferenceModel | Path:
    """The model that a config or a name stands for, with the same random weights each time; a file stays one.

    Of an architecture it is the backbone up to its last map, as timm's ``forward_features`` is.
    """
    if Path(source).suffix in {ending for backend in BACKENDS.values() for ending in backend.endings}:
        return Path(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if source in ARCHS:
            model = InferenceModel(source, RepViT(source, out_indices=(len(ARCHS[source].widths) - 1,)), BACKBONE)
        else:
            model = build_inference_model(source)
    randomise_weights(model)
    return model


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
    """timm's unfused model of the same network and weights; None if timm lacks it or is not installed."""
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
    theirs = timm.create_model(name, num_classes=classes, in_chans=model.in_channels,
                               distillation=not features and getattr(model.model.head, 'distillation', False))
    theirs.load_state_dict(convert_state_dict(model.model.state_dict(), to='timm'), strict=False)
    return TimmModel(theirs, features)


def fuse_any(model: nn.Module) -> nn.Module:
    """A fused copy of one of our models, or of timm's."""
    if isinstance(model, TimmModel):
        from timm.utils import reparameterize_model
        return TimmModel(reparameterize_model(model.model), model.features)
    return fuse(model)


def implementations(source: InferenceModel | Path, timm: bool) -> dict[str, Source]:
    """Who has the model -> it; timm's on request, where timm has it."""
    theirs = timm_counterpart(source) if timm and isinstance(source, InferenceModel) else None
    return {OURS: source} if theirs is None else {OURS: source, TIMM: theirs}


class Task(NamedTuple):
    """How a system is prepared in its process.

    Attributes:
        source: See :func:`build`.
        system: The system.
        shape: Height and width of the images, in pixels.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads.
        train: Whether a training step is measured.
        frozen_statistics: Whether its BatchNorms use their running statistics.
    """

    source: str
    system: System
    shape: Sequence[int]
    device: str
    threads: int
    train: bool = False
    frozen_statistics: bool = False

    def __call__(self) -> Prepared:
        if (TRAININGS if self.train else BACKENDS)[self.system.backend].keeps_memory:
            keep_freed_memory()
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.benchmark = True
        model = build(self.source)
        channels = model.in_channels if isinstance(model, InferenceModel) else 3
        image = torch.randn(self.system.batch_size, channels, *self.shape, generator=torch.Generator().manual_seed(0))
        chosen = implementations(model, self.system.implementation == TIMM)[self.system.implementation]
        if self.train:
            call, facts = prepare_training(chosen, self.system, image.to(self.device), self.frozen_statistics)
        else:
            call = prepare(chosen, self.system, image.to(self.device), self.threads)
            facts = {'difference': None if isinstance(model, Path) else difference(call(), reference(model, image))}
        call = finished(call, self.device)
        try:
            call()
        except Exception as error:  # each engine has its own
            if not isinstance(model, Path):
                raise
            raise UserError(f'{model} does not run on {self.system.batch_size} images of {self.shape[0]} x '
                            f'{self.shape[1]}: {error}; see --shape and --batch-size') from error
        _forget_peak(self.device)
        return Prepared(call, facts, partial(_peak, self.device))


def prepare(source: Source, system: System, image: Tensor, threads: int) -> Callable[[], Any]:
    """Make a copy of a model, or a file, ready to be measured."""
    backend = BACKENDS[system.backend]
    if not isinstance(source, Path):
        source = (fuse_any(source) if backend.fused else copy.deepcopy(source)).to(image.device).requires_grad_(False)
    return backend.prepare(source, image, system.dtype, threads)


@torch.inference_mode()
def reference(model: InferenceModel, image: Tensor) -> tuple[Tensor, ...]:
    """What the unfused model computes in single precision."""
    return model(image)


def difference(found: Any, expected: Sequence[Tensor]) -> float | None:
    """Largest difference of outputs, relative to the largest value of each; None where they are of another kind."""
    found = list(found.values()) if isinstance(found, Mapping) else found
    if len(found) != len(expected):
        return None
    found = [torch.as_tensor(output).float().cpu() for output in found]
    return max(float((ours - theirs).abs().max() / theirs.abs().max())
               for ours, theirs in zip(found, expected, strict=True))


def prepare_training(model: nn.Module, system: System, image: Tensor,
                     frozen_statistics: bool) -> tuple[Callable[[], Any], dict[str, float]]:
    """Prepare a training step: forward, backward, SGD; with bf16 and fp16 in mixed precision.

    Args:
        model: The model; not modified.
        system: With a key of :data:`TRAININGS`.
        image: The images, on the device to run on.
        frozen_statistics: Let BatchNorms use their running statistics, as in training for dense tasks.

    Returns:
        The step, and what it keeps for its backward pass, in MB.
    """
    device, way = image.device.type, TRAININGS[system.backend]
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    model, image = copy.deepcopy(model).to(device, memory_format=layout).train(), image.to(memory_format=layout)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and frozen_statistics:
            module.eval()
        if isinstance(module, RepViT):
            module.with_cp = 'cheap' if way.cheap else False
    run = torch.compile(model) if way.compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    # torch before 2.3 has only the one for CUDA.
    kind = partial(torch.amp.GradScaler, device) if hasattr(torch.amp, 'GradScaler') else torch.cuda.amp.GradScaler
    scaler = kind(enabled=system.dtype == 'fp16')

    def loss() -> Tensor:
        with torch.autocast(device, DTYPES[system.dtype], enabled=system.dtype != 'fp32'):
            return sum(output.float().mean() for output in run(image))

    def step() -> None:
        scaler.scale(loss()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step, {'activations': _kept(loss, [*model.parameters(), *model.buffers(), image])}


def _kept(loss: Callable[[], Tensor], own: Sequence[Tensor]) -> float:
    """MB that a forward pass keeps for the backward pass, beside tensors that are there anyhow."""
    storages: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss()
    for tensor in own:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values()) / 1e6


def _forget_peak(device: str) -> None:
    """Let the peak of the memory begin here."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == 'linux':
        Path('/proc/self/clear_refs').write_text('5')


def _peak(device: str) -> float:
    """Peak memory in MB: what torch allocates on a GPU, else the resident memory of this process."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == 'darwin' else peak / 1e3


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    packages = ('torch', 'timm', 'onnxruntime', 'openvino', 'coremltools')
    facts: dict[str, Any] = {'device': device, 'processor': _processor(), 'cores': os.cpu_count(), 'threads': threads,
                             'system': platform.platform(), 'python': platform.python_version(),
                             'repvit-mm': __version__}
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
