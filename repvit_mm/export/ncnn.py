"""ncnn, for phones: the graph in ``.ncnn.param``, the weights in ``.ncnn.bin`` beside it. Its converter is pnnx."""
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..errors import ExportError
from .files import ExportedFile, append_metadata, read_metadata
from .packages import need
from .prepare import Options, Subject


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph for one image: input ``in0``, outputs ``out0``, ...; the metadata end the ``.bin``.

    Returns:
        Number of occurrences of each operation.

    Raises:
        ExportError: If pnnx cannot convert the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / 'model.pt'
        torch.jit.trace(subject.model, tuple(subject.inputs.values()), check_trace=False).save(str(traced))
        sizes = ','.join(str(list(value.shape)).replace(' ', '') for value in subject.inputs.values())
        # pnnx.export ignores a failure.
        result = subprocess.run([need('pnnx').EXEC_PATH, traced, f'inputshape={sizes}', f'ncnnparam={path}',
                                 f'ncnnbin={path.with_suffix(".bin")}', f'fp16={int(options.precision == "fp16")}'],
                                capture_output=True, text=True)
    if result.returncode or not path.is_file():
        reason = (result.stderr.splitlines() or ['?'])[-1]
        raise ExportError(f'pnnx cannot convert {subject.metadata["config"]}: {reason}')
    append_metadata(path.with_suffix('.bin'), subject)
    return Counter(line.split()[0] for line in path.read_text().splitlines()[2:])


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a graph, in single precision on the CPU; 0 threads leaves their number to ncnn."""
    ncnn, metadata = need('ncnn'), read_metadata(path.with_suffix('.bin'))
    net = ncnn.Net()
    for option in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(net.opt, option, False)
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix('.bin'))):
        raise ExportError(f'ncnn {ncnn.__version__} cannot read {path}: it is damaged, or of another version of ncnn')

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with net.create_extractor() as extractor:
            extractor.input('in0', ncnn.Mat(np.ascontiguousarray(inputs['image'][0])).clone())
            return {name: np.array(extractor.extract(f'out{i}')[1])[None] for i, name in enumerate(metadata['outputs'])}
    return ExportedFile(path, run, tuple(metadata['shape']), metadata)
