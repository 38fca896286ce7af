"""The backends that run a model in benchmarks: torch in several modes, and the engines of the exporters."""
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError

#: A model, or a file that a backend runs.
Source = nn.Module | Path
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class Backend(NamedTuple):
    """A way to run a model. Each runs in its own process.

    Attributes:
        engine: ``(source, image, dtype, threads) -> call`` for a model or file and images in single precision, both
            on the CPU; ``call()`` runs the model once and returns a sequence or mapping of outputs. None for torch.
        dtypes: Supported precisions.
        package: Required package beside torch.
        suffixes: Suffixes of the files it runs.
        ours_only: Whether it exports our models only.
        fused: Whether to run the fused form.
        channels_last: Whether to use that memory format.
        compiled: Whether to use ``torch.compile``.
        keeps_memory: Whether the process keeps freed memory, as our tools do.
    """

    engine: Callable[[Source, Tensor, str, int], Callable[[], Any]] | None = None
    dtypes: Sequence[str] = tuple(DTYPES)
    package: str = ''
    suffixes: tuple[str, ...] = ()
    ours_only: bool = False
    fused: bool = True
    channels_last: bool = False
    compiled: bool = False
    keeps_memory: bool = False

    def runs(self, source: Source, is_ours: bool) -> bool:
        """Whether it runs a file or model."""
        return source.suffix in self.suffixes if isinstance(source, Path) else is_ours or not self.ours_only

    @property
    def layout(self) -> torch.memory_format:
        """The memory format."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def _onnxruntime(source: Source, image: Tensor, dtype: str, threads: int) -> Callable[[], Any]:
    from ..export.onnx import open_session
    with _onnx_file(source, image) as path:
        session = open_session(path, threads)
    return lambda: session.run(None, {'image': image.numpy()})


def _openvino(source: Source, image: Tensor, dtype: str, threads: int) -> Callable[[], Any]:
    from ..export.openvino import compile_graph
    with _onnx_file(source, image) as path:
        _, compiled = compile_graph(path, threads, {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}[dtype])
    request, feed = compiled.create_infer_request(), {'image': image.numpy()}
    return lambda: list(request.infer(feed, share_outputs=True).values())


@contextmanager
@torch.no_grad()
def _onnx_file(source: Source, image: Tensor) -> Iterator[Path]:
    """The file itself, or a temporary one of the model."""
    from ..export.onnx import save_graph
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        save_graph(source, {'image': image}, path, [f'output{i}' for i in range(len(source(image)))])
        yield path


def _exported(source: Source, image: Tensor, dtype: str, threads: int, name: str) -> Callable[[], Any]:
    """A format whose files take one image."""
    if len(image) > 1:
        raise UserError(f'the backend {name} runs one image at a time: --batch-size 1')
    from ..export import FORMATS, export_model
    from ..export.runtimes import ENGINES
    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(source, Path):
            path = Path(folder) / f'model{FORMATS[name].suffix}'
            source = export_model(source, name, image.shape[2:], path).path
        file = ENGINES[name][0](source, threads)
    return lambda: file.run({'image': image.numpy()})


_TOOLS = Backend(channels_last=True, keeps_memory=True)
#: Name -> backend.
BACKENDS: dict[str, Backend] = {
    'unfused': Backend(fused=False),  # compare with eager for the gain by fusion
    'eager': Backend(),
    'channels_last': Backend(channels_last=True),
    'tools': _TOOLS,
    'compile': _TOOLS._replace(compiled=True),
    'onnxruntime': Backend(_onnxruntime, ('fp32',), 'onnxruntime', ('.onnx',)),
    'openvino': Backend(_openvino, package='openvino', suffixes=('.xml', '.onnx')),
    **{name: Backend(partial(_exported, name=name), ('fp32',), package, (suffix,), ours_only=True)
       for name, package, suffix in (('ncnn', 'ncnn', '.param'), ('executorch', 'executorch', '.pte'),
                                     ('litert', 'ai_edge_litert', '.tflite'))},
}
#: Name -> backend of a training step; ``cheap`` sets ``with_cp='cheap'``, which timm lacks.
TRAININGS = {**{name: BACKENDS[name] for name in ('eager', 'channels_last', 'tools')}, 'cheap': _TOOLS,
             'compile': BACKENDS['compile']}


def supported_dtypes(name: str, device: str, dtypes: Sequence[str]) -> list[str]:
    """The precisions among ``dtypes`` that a backend supports.

    Raises:
        UserError: If the backend does not exist, lacks its package, or supports neither the device nor any of them.
    """
    if name not in BACKENDS:
        raise UserError(f'unknown backend {name!r}; choose from {", ".join(BACKENDS)}')
    backend = BACKENDS[name]
    if backend.package:
        from ..export.packages import need
        need(backend.package)
    if device != 'cpu' and backend.package:
        raise UserError(f'the backend {name} runs on cpu only, not on {device}')
    usable = [dtype for dtype in dtypes if dtype in backend.dtypes]
    if not usable:
        raise UserError(f'the backend {name} supports {", ".join(backend.dtypes)}, not {", ".join(dtypes)}')
    return usable
