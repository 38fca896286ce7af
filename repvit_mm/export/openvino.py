"""OpenVINO: the graph in ``.xml``, its weights in ``.bin`` beside it."""
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import onnx
from .files import ExportedFile, parse_metadata
from .packages import need
from .prepare import Options, Subject

#: The entry with the metadata, as JSON.
METADATA = 'repvit_mm'


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph, by way of ONNX; its inputs, outputs and metadata are those of ONNX.

    Returns:
        Number of occurrences of each operation.
    """
    openvino = need('openvino')
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / 'model.onnx'
        onnx.write(subject, graph, options)
        converted = openvino.convert_model(graph)
    converted.set_rt_info(json.dumps(subject.metadata), METADATA)
    openvino.save_model(converted, path, compress_to_fp16=options.precision == 'fp16')
    return Counter(operation.get_type_name() for operation in converted.get_ops())


def open_file(path: Path, threads: int = 0, precision: str = 'fp32') -> ExportedFile:
    """Open an OpenVINO or ONNX file on the CPU; 0 threads leaves their number to OpenVINO."""
    core = need('openvino').Core()
    graph = core.read_model(path)
    compiled = core.compile_model(graph, 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision.replace('fp', 'f'),
        **({'INFERENCE_NUM_THREADS': threads} if threads else {})})
    request = compiled.create_infer_request()
    # Not those of the compiled graph: compiling adds names.
    names = [value.get_any_name() for value in graph.outputs]
    taken = {value.get_any_name() for value in graph.inputs}
    if path.suffix == '.onnx':
        entries = need('onnx').load(path, load_external_data=False).metadata_props
        metadata = parse_metadata({entry.key: entry.value for entry in entries})
    else:
        metadata = json.loads(graph.get_rt_info(METADATA).astype(str)) if graph.has_rt_info(METADATA) else {}

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        request.infer({name: value for name, value in inputs.items() if name in taken})
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(names)}

    shape = tuple(size.get_length() if size.is_static else None for size in graph.input('image').partial_shape)
    return ExportedFile(path, run, shape, metadata)
