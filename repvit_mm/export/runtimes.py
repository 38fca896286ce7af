"""The engines that run exported files."""
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ExportError
from . import coreml, executorch, litert, ncnn, onnx, openvino
from .files import ExportedFile, one_by_one
from .packages import one_line

#: Engine -> ``(path, threads)`` opens a file, and suffixes of the files that it runs.
ENGINES = {'onnxruntime': (onnx.open_file, ('.onnx',)), 'openvino': (openvino.open_file, ('.xml', '.onnx')),
           'coreml': (coreml.open_file, ('.mlpackage',)), 'litert': (litert.open_file, ('.tflite',)),
           'ncnn': (ncnn.open_file, ('.param',)), 'executorch': (executorch.open_file, ('.pte',))}


def open_exported(path: str | Path, engine: str) -> ExportedFile:
    """Open an exported file.

    Args:
        path: A file written by an exporter of this package.
        engine: A key of :data:`ENGINES`.

    Raises:
        ExportError: If the file is missing or not ours, or the engine is not installed or does not run it;
            running it raises the same.
    """
    path, (opener, endings) = Path(path), ENGINES[engine]
    if path.suffix not in endings:
        raise ExportError(f'{path} must end in {" or ".join(endings)} for {engine}')
    for part in (path, path.with_suffix('.bin')):  # a pipe would be waited for
        if not (part.is_file() or part.is_dir()) and (part == path or part.exists()):
            raise ExportError(f'there is no file {part}')
    with one_line(f'{engine} cannot read {path}'):
        file = opener(path)
    if missing := {'task', 'description', 'mean', 'std', 'channels'} - set(file.metadata):
        raise ExportError(f'{path} has no {", ".join(sorted(missing))} in its metadata: it was not written by the '
                          'exporters of repvit_mm')

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with one_line(f'{engine} cannot run {path}'):
            return file.run(inputs)
    return file._replace(run=one_by_one(run) if file.shape[0] == 1 else run)
