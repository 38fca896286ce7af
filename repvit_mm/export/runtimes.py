"""The engines that run an exported file, behind one call: each proof, and tests of a file, need no more."""
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError
from .packages import need
from .subject import Subject


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


def open_ncnn(path: Path, threads: int = 0) -> ExportedFile:
    """Open an ncnn graph with the weights beside it, in single precision on the CPU; threads as above."""
    ncnn, facts = need('ncnn'), read_facts(path.with_suffix('.bin'))
    net = ncnn.Net()
    for option in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(net.opt, option, False)
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix('.bin'))):
        raise ExportError(f'ncnn {ncnn.__version__} cannot read {path}: it is damaged, or of another version of ncnn')

    def run_one(image: np.ndarray) -> list[np.ndarray]:
        with net.create_extractor() as extractor:
            extractor.input('in0', ncnn.Mat(np.ascontiguousarray(image[0])).clone())
            return [np.array(extractor.extract(f'out{i}')[1])[None] for i in range(len(facts['outputs']))]
    return ExportedFile(path, _one_by_one(run_one, facts['outputs']), tuple(facts['shape']), facts)


def open_executorch(path: Path, threads: int = 0) -> ExportedFile:
    """Open an ExecuTorch program, on the CPU. Its Python runtime chooses the number of threads itself."""
    need('executorch')
    import torch
    from executorch.runtime import Runtime
    facts, program = read_facts(path), Runtime.get().load_program(path)
    method = program.load_method('forward')

    def run_one(image: np.ndarray) -> list[np.ndarray]:
        # The values belong to the program until it runs again.
        return [value.numpy().copy() for value in method.execute([torch.from_numpy(np.ascontiguousarray(image))])]
    return ExportedFile(path, _one_by_one(run_one, facts['outputs']), tuple(facts['shape']), facts)


def open_litert(path: Path, threads: int = 0) -> ExportedFile:
    """Open a LiteRT graph, on the CPU; threads as above."""
    interpreters, facts = need('ai_edge_litert.interpreter'), read_facts(path)
    interpreter = interpreters.Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    source, targets = interpreter.get_input_details()[0]['index'], interpreter.get_output_details()

    def run_one(image: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return [interpreter.get_tensor(target['index']) for target in targets]
    return ExportedFile(path, _one_by_one(run_one, facts['outputs']), tuple(facts['shape']), facts)


def _one_by_one(run_one: Callable[[np.ndarray], list[np.ndarray]],
                names: list[str]) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """Batches for a file that takes one image."""
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = [run_one(image[None]) for image in inputs['image']]
        return {name: np.concatenate(values) for name, *values in zip(names, *results, strict=True)}
    return run


#: Under which an OpenVINO file has its metadata, as JSON.
METADATA = 'repvit_mm'
#: In a zip archive that is the end of a file whose format has no place for metadata; engines do not read so far.
FACTS = 'metadata.json'


def append_facts(path: Path, subject: Subject) -> None:
    """End a file with its metadata, the shape of its image and the names of its outputs."""
    facts = {**subject.facts, 'shape': list(subject.inputs['image'].shape), 'outputs': subject.outputs}
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(FACTS, json.dumps(facts))


def read_facts(path: Path) -> dict[str, Any]:
    """What :func:`append_facts` wrote.

    Raises:
        ExportError: If there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(FACTS))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ExportError(f'{path} has no metadata: it was not written by the exporters of repvit_mm') from error


#: Engine -> what opens a file, and the endings of the files that it runs.
ENGINES = {'onnxruntime': (open_onnx, ('.onnx',)), 'openvino': (open_openvino, ('.xml', '.onnx')),
           'ncnn': (open_ncnn, ('.param',)), 'executorch': (open_executorch, ('.pte',)),
           'litert': (open_litert, ('.tflite',))}


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
    try:
        file = opener(path)
    except ExportError:
        raise
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
