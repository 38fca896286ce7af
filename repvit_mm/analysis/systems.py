"""Systems of a benchmark: models of ours and of timm, ready to run."""
import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import ARCHS
from ..checkpoints import convert_state_dict
from ..errors import UserError
from ..export.runtimes import ENGINES
from ..models.folding import fuse_model, relative_difference
from ..models.inference import BACKBONE, InferenceModel, build_inference_model, randomise_weights
from ..network.backbone import RepViT
from ..network.recompute import Kept
from .backends import BACKENDS, DTYPES, TRAININGS, Source, open_engine

OURS, TIMM = 'repvit_mm', 'timm'


class Request(NamedTuple):
    """What to measure: every combination of the lists.

    Attributes:
        configs: See :func:`repvit_mm.models.inference.build_inference_model`; or files that the backends run.
        shape: Height and width of the images, in pixels.
        batch_sizes: Numbers of images in a batch.
        backends: Keys of :data:`repvit_mm.analysis.backends.BACKENDS`, or of ``TRAININGS`` for a training step.
        dtypes: Keys of :data:`repvit_mm.analysis.backends.DTYPES`.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads; torch's default if None.
        rounds: Measurements of each system.
        train: Measure a training step instead of inference.
        frozen_statistics: Let BatchNorms use their running statistics in training, as for dense tasks.
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
    timm: bool = True


class System(NamedTuple):
    """A model and a way to run it.

    Attributes:
        model: Name of the model.
        implementation: :data:`OURS` or :data:`TIMM`.
        backend: One of the request.
        dtype: Precision.
        batch_size: Number of images.
    """

    model: str
    implementation: str
    backend: str
    dtype: str
    batch_size: int


def random_model(source: str) -> InferenceModel | Path:
    """The model of a config or name, with the same random weights each time; a file is returned as a path.

    The model of an architecture is the backbone up to its last map, as in timm's ``forward_features``.
    """
    if Path(source).suffix in {suffix for _, suffixes in ENGINES.values() for suffix in suffixes}:
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
    """timm's model with the interface of ours."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(N, channels, H, W) -> one tensor: logits, or the last map of a model without classes."""
        return (self.model(image) if self.model.num_classes else self.model.forward_features(image),)


def timm_counterpart(model: InferenceModel) -> TimmModel | None:
    """timm's unfused model of the same network and weights; None if timm lacks it or is not installed."""
    backbone, features = model.backbone, isinstance(model.model, RepViT)
    is_whole = backbone is not None and backbone.out_strides[-1] == 32 and (
        backbone.feature_tap == 'stage_end' or not features)
    if not is_whole or not (features or model.task.decision == 'softmax') or find_spec('timm') is None:
        return None
    import timm
    name = f'repvit_{backbone.arch}'
    if not timm.is_model(name):
        return None
    theirs = timm.create_model(name, num_classes=0 if features else model.model.head.num_classes,
                               in_chans=model.in_channels,
                               distillation=not features and getattr(model.model.head, 'distillation', False))
    theirs.load_state_dict(convert_state_dict(model.model.state_dict(), to='timm'), strict=False)
    return TimmModel(theirs)


def implementations(source: InferenceModel | Path, timm: bool) -> dict[str, Source]:
    """Implementation -> model; includes timm's on request, if timm has it."""
    theirs = timm_counterpart(source) if timm and isinstance(source, InferenceModel) else None
    return {OURS: source} if theirs is None else {OURS: source, TIMM: theirs}


def fuse_any(model: nn.Module) -> nn.Module:
    """A fused copy of one of our models or of timm's."""
    if isinstance(model, TimmModel):
        from timm.utils import reparameterize_model
        return TimmModel(reparameterize_model(model.model))
    return fuse_model(model)


def prepare(model: Source, chosen: Source, system: System,
            request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Prepare a system, and run it once.

    Args:
        model: See :func:`random_model`; not modified.
        chosen: The implementation of it that the system runs; not modified.
        system: The system.
        request: The rest of the request.

    Returns:
        The call to measure, and the figures of :class:`repvit_mm.analysis.benchmark.Latency` that depend on no time.

    Raises:
        UserError: If it does not run.
    """
    channels, details = model.in_channels if isinstance(model, InferenceModel) else 3, {}
    image = torch.randn(system.batch_size, channels, *request.shape, generator=torch.Generator().manual_seed(0))
    try:
        if request.train:
            call, details = training_step(chosen, system, image.to(request.device), request.frozen_statistics)
        else:
            call = inference(chosen, system, image.to(request.device), request.threads)
        outputs = call()
        if isinstance(model, nn.Module) and not request.train:
            details['difference'] = difference(outputs, torch.inference_mode()(model)(image))
    except UserError:
        raise
    except Exception as error:  # each engine has its own
        raise UserError(f'{system.model} does not run on {system.batch_size} images of {request.shape[0]} x '
                        f'{request.shape[1]}: {error}; see --shape and --batch-size') from error
    return call if request.device == 'cpu' else lambda: (call(), torch.cuda.synchronize()), details


def inference(source: Source, system: System, image: Tensor, threads: int) -> Callable[[], Any]:
    """Prepare a copy of a model, or a file, for inference; returns the call."""
    backend, dtype = BACKENDS[system.backend], DTYPES[system.dtype]
    if isinstance(source, nn.Module):
        source = (fuse_any(source) if backend.fused else copy.deepcopy(source)).to(image.device).requires_grad_(False)
    if backend.engine:
        return open_engine(source, backend.engine, image, system.dtype, threads)
    model, image = source.to(dtype, memory_format=backend.layout), image.to(dtype, memory_format=backend.layout)
    if backend.compiled:
        # On a GPU, a CUDA graph launches all the small kernels at once.
        model = compile_anew(model, mode='reduce-overhead' if image.is_cuda else None)
    return torch.inference_mode()(lambda: model(image))


def compile_anew(model: nn.Module, mode: str | None = None) -> nn.Module:
    """Compile a model for one shape, however many others have the same code: by default, the ninth runs eagerly."""
    torch._dynamo.config.cache_size_limit = 1000
    return torch.compile(model, dynamic=False, mode=mode)


def difference(found: Any, expected: Sequence[Tensor]) -> float | None:
    """Largest difference of the outputs, relative to the largest value of each; None if not comparable."""
    found = list(found.values()) if isinstance(found, Mapping) else found
    if len(found) != len(expected):
        return None
    return relative_difference([torch.as_tensor(output).float().cpu() for output in found], expected)


def training_step(model: nn.Module, system: System, image: Tensor,
                  frozen_statistics: bool) -> tuple[Callable[[], Any], dict[str, float]]:
    """Prepare a training step: forward, backward, SGD; with bf16 and fp16 in mixed precision.

    Args:
        model: The model; not modified.
        system: Its backend is a key of ``TRAININGS``.
        image: The images, on the device to run on.
        frozen_statistics: See :class:`Request`.

    Returns:
        The step, and the figures that depend on no time: ``activations``.
    """
    device, way = image.device.type, TRAININGS[system.backend]
    model, image = copy.deepcopy(model).to(device, memory_format=way.layout).train(), image.to(memory_format=way.layout)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and frozen_statistics:
            module.eval()
        if isinstance(module, RepViT):
            module.with_cp = system.backend == 'cheap' and 'cheap'
    run = compile_anew(model) if way.compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def loss() -> Tensor:
        with torch.autocast(device, DTYPES[system.dtype], enabled=system.dtype != 'fp32'):
            return sum(output.float().mean() for output in run(image))

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, {'activations': _kept(loss, [*model.parameters(), *model.buffers(), image])}


def _kept(loss: Callable[[], Tensor], own: Sequence[Tensor]) -> float:
    """Memory that a forward pass keeps for the backward pass, in MB, without the tensors in ``own``."""
    storages: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = loss()
    for kept in gc.get_objects():  # with_cp='cheap' has hooks of its own
        if type(kept) is Kept:  # isinstance asks dead weak references, too
            note(kept.tensor)
    del output
    for tensor in own:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storage.nbytes() for storage in storages.values()) / 1e6
