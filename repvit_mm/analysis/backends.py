"""The backends that run a model in benchmarks: torch in several modes, and the engines of the exporters."""
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.inference import InferenceModel
from .limits import DTYPES

#: A model, or a file of one that the backend takes.
Source = nn.Module | Path


class Backend(NamedTuple):
    """A way to run a model. Each runs in a process of its own.

    Attributes:
        prepare: ``(source, image, dtype, threads) -> call``. Model and image are in single precision, on the device to
            run on; ``call()`` runs the model once and returns its outputs, in a sequence or under their names.
        dtypes: Device -> supported precisions.
        package: Required package beside torch.
        fused: Whether it runs the fused form.
        endings: Of files that it takes.
        keeps_memory: Whether the process keeps freed memory, as our tools do.
    """

    prepare: Callable[[Source, Tensor, str, int], Callable[[], Any]]
    dtypes: Mapping[str, tuple[str, ...]]
    package: str | None = None
    fused: bool = True
    endings: tuple[str, ...] = ()
    keeps_memory: bool = False


def _torch(model: nn.Module, image: Tensor, dtype: str, threads: int, channels_last: bool = False,
           compiled: bool = False) -> Callable[[], Any]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(DTYPES[dtype], memory_format=layout)
    image = image.to(DTYPES[dtype], memory_format=layout)
    if compiled:
        # On a GPU, launching many small kernels costs most; a CUDA graph launches all of them at once.
        model = torch.compile(model, mode='reduce-overhead' if image.is_cuda else None)

    @torch.inference_mode()
    def call() -> Any:
        return model(image)
    return call


def _onnxruntime(source: Source, image: Tensor, dtype: str, threads: int) -> Callable[[], Any]:
    from ..export.runtimes import open_session
    with _onnx_file(source, image) as path:
        session = open_session(path, threads)
    feed = {'image': image.numpy()}
    return lambda: session.run(None, feed)


def _openvino(source: Source, image: Tensor, dtype: str, threads: int) -> Callable[[], Any]:
    import openvino
    with _onnx_file(source, image) as path:
        graph = openvino.Core().read_model(path)
        compiled = openvino.Core().compile_model(graph, 'CPU', {
            'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_NUM_THREADS': threads,
            'INFERENCE_PRECISION_HINT': {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}[dtype]})
    request, feed = compiled.create_infer_request(), {'image': image.numpy()}
    return lambda: list(request.infer(feed, share_outputs=True).values())


def _coreml(model: nn.Module, image: Tensor, dtype: str, threads: int, unit: str) -> Callable[[], Any]:
    if len(image) > 1:
        raise UserError('the backend coreml runs one image at a time: --batch-size 1')
    import coremltools
    from PIL import Image

    from ..export import Options, export_model
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / 'model.mlpackage'
        export_model(model, 'coreml', image.shape[2:], package, Options(dtype))
        loaded = coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit[unit])
    feed = {'image': Image.new('RGB', (image.shape[3], image.shape[2]), (128, 128, 128))}
    return lambda: loaded.predict(feed)


def _exported(source: Source, image: Tensor, dtype: str, threads: int, name: str) -> Callable[[], Any]:
    """A format whose files hold one image."""
    if len(image) > 1:
        raise UserError(f'the backend {name} runs one image at a time: --batch-size 1')
    from ..export import BACKENDS as FORMATS
    from ..export import export_model
    from ..export.runtimes import ENGINES
    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(source, Path):
            path = Path(folder) / f'model{FORMATS[name].suffix}'
            source = export_model(source, name, image.shape[2:], path).path
        file, feed = ENGINES[name][0](source, threads), {'image': image.numpy()}
    return lambda: file.run(feed)


@contextmanager
@torch.no_grad()
def _onnx_file(source: Source, image: Tensor) -> Iterator[Path]:
    """The file itself, or one of the model while it is being opened."""
    from ..export.onnx import save_graph
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        save_graph(source, {'image': image}, path, [f'output{i}' for i in range(len(source(image)))])
        yield path


_EVERY = {'cpu': ('fp32', 'bf16', 'fp16'), 'cuda': ('fp32', 'bf16', 'fp16')}
#: Name -> backend.
BACKENDS: dict[str, Backend] = {
    'unfused': Backend(_torch, _EVERY, fused=False),  # compare with eager for the gain by fusion
    'eager': Backend(_torch, _EVERY),
    'channels_last': Backend(partial(_torch, channels_last=True), _EVERY),
    'tools': Backend(partial(_torch, channels_last=True), _EVERY, keeps_memory=True),
    'compile': Backend(partial(_torch, channels_last=True, compiled=True), _EVERY, keeps_memory=True),
    'onnxruntime': Backend(_onnxruntime, {'cpu': ('fp32',)}, 'onnxruntime', endings=('.onnx',)),
    'openvino': Backend(_openvino, {'cpu': ('fp32', 'bf16', 'fp16')}, 'openvino', endings=('.xml', '.onnx')),
    'ncnn': Backend(partial(_exported, name='ncnn'), {'cpu': ('fp32',)}, 'ncnn', endings=('.param',)),
    'executorch': Backend(partial(_exported, name='executorch'), {'cpu': ('fp32',)}, 'executorch', endings=('.pte',)),
    'litert': Backend(partial(_exported, name='litert'), {'cpu': ('fp32',)}, 'ai_edge_litert', endings=('.tflite',)),
    # One for each of coremltools' compute units.
    'coreml': Backend(partial(_coreml, unit='ALL'), {'cpu': ('fp32', 'fp16')}, 'coremltools'),
    'coreml_cpu': Backend(partial(_coreml, unit='CPU_ONLY'), {'cpu': ('fp32', 'fp16')}, 'coremltools'),
    'coreml_gpu': Backend(partial(_coreml, unit='CPU_AND_GPU'), {'cpu': ('fp32', 'fp16')}, 'coremltools'),
    'coreml_ne': Backend(partial(_coreml, unit='CPU_AND_NE'), {'cpu': ('fp32', 'fp16')}, 'coremltools'),
}


def check_backend(name: str, device: str, dtypes: list[str]) -> list[str]:
    """Check that a backend can be used.

    Args:
        name: A key of :data:`BACKENDS`.
        device: ``'cpu'`` or ``'cuda'``.
        dtypes: Keys of :data:`DTYPES`.

    Returns:
        The supported ones of ``dtypes``.

    Raises:
        UserError: If the backend does not exist, lacks its package, or supports neither this system, the device nor
            any of the precisions.
    """
    if name not in BACKENDS:
        raise UserError(f'unknown backend {name!r}; choose from {", ".join(BACKENDS)}')
    backend = BACKENDS[name]
    if name.startswith('coreml') and sys.platform != 'darwin':
        raise UserError(f'the backend {name} needs macOS; docs/benchmark.md explains how to measure on a phone')
    if backend.package:
        from ..export.packages import need
        need(backend.package)
    if device not in backend.dtypes:
        raise UserError(f'the backend {name} runs on {", ".join(backend.dtypes)} only, not on {device}')
    usable = [dtype for dtype in dtypes if dtype in backend.dtypes[device]]
    if not usable:
        raise UserError(f'the backend {name} supports {", ".join(backend.dtypes[device])} on {device}, '
                        f'not {", ".join(dtypes)}')
    return usable


def takes(name: str, source: Source) -> bool:
    """Whether a backend can run a model or file: what is exported for it is of our models only."""
    if isinstance(source, Path):
        return source.suffix in BACKENDS[name].endings
    return not name.startswith(('coreml', 'ncnn', 'executorch', 'litert')) or isinstance(source, InferenceModel)
