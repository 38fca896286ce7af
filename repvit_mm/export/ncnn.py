"""ncnn, for phones: the graph in ``.ncnn.param``, the weights in ``.ncnn.bin`` beside it. Its converter is pnnx."""
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import ExportError
from .packages import need
from .runtimes import append_facts
from .subject import Options, Subject
from .verification import GraphNode, check_fused, constant_scales


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph for one image at a time: input ``in0``, outputs ``out0``, ...; the metadata end the ``.bin``.

    Returns:
        How often each operation occurs.

    Raises:
        ExportError: If pnnx cannot convert the model, or the graph is not fused.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), constant_scales():
        warnings.simplefilter('ignore')  # about sizes becoming constants
        traced = Path(folder) / 'model.pt'
        torch.jit.trace(subject.model, tuple(subject.inputs.values()), check_trace=False).save(str(traced))
        sizes = ','.join(str(list(value.shape)).replace(' ', '') for value in subject.inputs.values())
        # pnnx.export would not tell a failure.
        result = subprocess.run([need('pnnx').EXEC_PATH, traced, f'inputshape={sizes}', f'ncnnparam={path}',
                                 f'ncnnbin={path.with_suffix(".bin")}', f'fp16={int(options.precision == "fp16")}'],
                                capture_output=True, text=True)
    if result.returncode or not path.is_file():
        raise ExportError(f'pnnx cannot convert {subject.facts["config"]}: {(result.stderr.splitlines() or ["?"])[-1]}')
    append_facts(path.with_suffix('.bin'), subject)
    check_fused(_nodes(path), subject.convolutions)
    return Counter(line.split()[0] for line in path.read_text().splitlines()[2:])


def _nodes(path: Path) -> Iterator[GraphNode]:
    for line in path.read_text().splitlines()[2:]:
        kind, _, inputs, _, *names = line.split()
        source = names[0] if int(inputs) else ''
        if kind.startswith('Convolution'):
            yield GraphNode('conv', source, kind == 'ConvolutionDepthWise')
        else:
            yield GraphNode('norm' if kind == 'BatchNorm' else 'other', source)
