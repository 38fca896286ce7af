"""The backends that run a model in benchmarks: torch in several modes, and the engines of the exporters."""
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..export import FORMATS, export_model
from ..export.onnx import save_graph
from ..export.runtimes import ENGINES

#: A model, or a file that a backend runs.
Source = nn.Module | Path
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class Backend(NamedTuple):
    """A way to run a model.

    Attributes:
        engine: A key of :data:`repvit_mm.export.runtimes.ENGINES`; empty for torch.
        dtypes: Supported precisions.
        fused: Whether to run the fused form.
        channels_last: Whether to use that memory format.
        compiled: Whether to use ``torch.compile``.
    """

    engine: str = ''
    dtypes: Sequence[str] = tuple(DTYPES)
    fused: bool = True
    channels_last: bool = False
    compiled: bool = False

    def runs(self, source: Source, is_ours: bool) -> bool:
        """Whether it runs a file or model."""
        suffixes = ENGINES[self.engine][1] if self.engine else ()
        if isinstance(source, Path):
            return source.suffix in suffixes
        return is_ours or not self.engine or '.onnx' in suffixes

    @property
    def layout(self) -> torch.memory_format:
        """The memory format."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


@torch.no_grad()
def open_engine(source: Source, name: str, image: Tensor, dtype: str, threads: int) -> Callable[[], Any]:
    """The call that runs a fused model, or a file, with an engine on the CPU.

    Raises:
        UserError: If the engine is not installed, or its files take one image and there are several.
    """
    opener, suffixes = ENGINES[name]
    if len(image) > 1 and '.onnx' not in suffixes:
        raise UserError(f'the backend {name} runs one image at a time: --batch-size 1')
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, Path):
            path = source
        elif '.onnx' in suffixes:  # timm's models, too
            path = Path(folder) / 'model.onnx'
            save_graph(source, {'image': image}, path, [f'output{i}' for i in range(len(source(image)))])
        else:
            path = Path(folder) / f'model{FORMATS[name].suffix}'
            export_model(source, name, image.shape[2:], path)
        file = opener(path, threads, **({'precision': dtype} if name == 'openvino' else {}))
    return lambda: file.run({'image': image.numpy()})


_CHANNELS_LAST = Backend(channels_last=True)
#: Name -> backend.
BACKENDS: dict[str, Backend] = {
    'unfused': Backend(fused=False),  # compare with eager for the gain by fusion
    'eager': Backend(),
    'channels_last': _CHANNELS_LAST,
    'compile': _CHANNELS_LAST._replace(compiled=True),
    **{name: Backend(name, tuple(DTYPES) if name == 'openvino' else ('fp32',)) for name in ENGINES if name != 'coreml'},
}
#: Name -> backend of a training step; ``cheap`` sets ``with_cp='cheap'``, which timm lacks.
TRAININGS = {'eager': Backend(), 'channels_last': _CHANNELS_LAST, 'cheap': _CHANNELS_LAST,
             'compile': BACKENDS['compile']}


def supported_dtypes(name: str, device: str, dtypes: Sequence[str]) -> list[str]:
    """The precisions among ``dtypes`` that a backend supports.

    Raises:
        UserError: If the backend does not exist, or supports neither the device nor any of them.
    """
    if name not in BACKENDS:
        raise UserError(f'unknown backend {name!r}; choose from {", ".join(BACKENDS)}')
    backend = BACKENDS[name]
    if device != 'cpu' and backend.engine:
        raise UserError(f'the backend {name} runs on cpu only, not on {device}')
    usable = [dtype for dtype in dtypes if dtype in backend.dtypes]
    if not usable:
        raise UserError(f'the backend {name} supports {", ".join(backend.dtypes)}, not {", ".join(dtypes)}')
    return usable
