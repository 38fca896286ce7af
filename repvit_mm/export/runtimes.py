"""The engines that run an exported file, behind one call: each proof, and tests of a file, need no more."""
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError
from .packages import need


class ExportedFile(NamedTuple):
    """A file that is ready to run.

    Attributes:
        path: Where it is.
        run: Name of each input -> array; gives name of each output -> array.
        shape: Of the input ``image``: batch, channels, height, width; None is any.
        facts: Its metadata, see :func:`repvit_mm.export.provenance.describe`.
    """

    path: Path
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    shape: tuple[int | None, ...]
    facts: dict[str, Any]


def open_onnx(path: Path, threads: int = 0) -> ExportedFile:
    """Open an ONNX file with onnxruntime, on the CPU; 0 threads leaves their number to the engine."""
    session = open_session(path, threads)
    names = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {name: value for name, value in inputs.items() if name in taken}
        return dict(zip(names, session.run(names, feed), strict=True))

    shape = tuple(size if isinstance(size, int) else None for size in session.get_inputs()[0].shape)
    return ExportedFile(path, run, shape, facts_of(session))


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; 0 threads leaves their number to onnxruntime."""
    onnxruntime = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def facts_of(session: Any) -> dict[str, Any]:
    """The metadata of the file that an onnxruntime session runs."""
    return _parsed(session.get_modelmeta().custom_metadata_map)


def open_openvino(path: Path, threads: int = 0) -> ExportedFile:
    """Open an OpenVINO or ONNX file with OpenVINO, in single precision on the CPU; threads as above."""
    openvino = need('openvino')
    core = openvino.Core()
    graph = core.read_model(path)
    settings = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = core.compile_model(graph, 'CPU', {**settings, **({'INFERENCE_NUM_THREADS': threads} if threads else {})})
    request = compiled.create_infer_request()
    # Not of the compiled graph: compiling adds names.
    names = [value.get_any_name() for value in graph.outputs]
    taken = {value.get_any_name() for value in graph.inputs}
    if path.suffix == '.onnx':
        entries = need('onnx').load(path, load_external_data=False).metadata_props
        facts = _parsed({entry.key: entry.value for entry in entries})
    else:
        facts = json.loads(graph.get_rt_info(METADATA).astype(str)) if graph.has_rt_info(METADATA) else {}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer({name: value for name, value in inputs.items() if name in taken})
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(names)}

    shape = tuple(size.get_length() if size.is_static else None for size in graph.input('image').partial_shape)
    return ExportedFile(path, run, shape, facts)


#: Under which an OpenVINO file has its metadata, as JSON.
METADATA = 'repvit_mm'
#: Engine -> what opens a file, and the endings of the files that it runs.
ENGINES = {'onnxruntime': (open_onnx, ('.onnx',)), 'openvino': (open_openvino, ('.xml', '.onnx'))}


def open_exported(path: str | Path, engine: str) -> ExportedFile:
    """Open an exported file.

    Args:
        path: What an exporter of this package wrote.
        engine: A key of :data:`ENGINES`.

    Raises:
        ExportError: If there is no such file, the engine does not run it or is not installed, or it is not ours.
    """
    path, (opener, endings) = Path(path), ENGINES[engine]
    if path.suffix not in endings:
        raise ExportError(f'{path} must end in {" or ".join(endings)} for {engine}')
    if not path.is_file():
        raise ExportError(f'there is no file {path}')
    need(engine)
    try:
        file = opener(path)
    except Exception as error:  # each engine has its own
        raise ExportError(f'{engine} cannot read {path}: {str(error).strip().splitlines()[0]}') from error
    if 'task' not in file.facts:
        raise ExportError(f'{path} does not say what it is for: it was not written by the exporters of repvit_mm')
    return file


def _parsed(entries: Mapping[str, str]) -> dict[str, Any]:
    """Metadata: what was no text was written as JSON."""
    facts = {}
    for key, value in entries.items():
        try:
            facts[key] = json.loads(value)
        except (TypeError, ValueError):
            facts[key] = value
    return facts
