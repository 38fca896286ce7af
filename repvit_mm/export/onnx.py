"""ONNX, for onnxruntime and others."""
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from .detectors import WholeDetector
from .files import ExportedFile, as_text, parse_metadata
from .packages import need
from .prepare import Options, Subject
from .quantisation import quantise
from .tracing import quiet, traceable

OPSET = 17


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph with its metadata, and check that it is valid.

    Returns:
        Number of occurrences of each operation.
    """
    onnx = need('onnx')
    save_graph(subject.model, subject.inputs, path, subject.outputs, _axes(subject, options))
    graph = onnx.load(path)
    if custom := sorted({f'{node.domain}::{node.op_type}' for node in graph.graph.node if node.domain}):
        raise ExportError(f'{subject.fused.name} needs {", ".join(custom)}, which ONNX does not define')
    graph.producer_name, graph.doc_string = 'repvit-mm', subject.metadata['description']
    if options.precision == 'fp16':
        graph = _halved(graph, isinstance(subject.model, WholeDetector))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)
    add_metadata(path, subject.metadata)
    if options.precision == 'int8':
        quantise(path, map(subject.load, options.quantisation.images.calibration))
    return count_operations(path)


def _axes(subject: Subject, options: Options) -> dict[str, dict[int, str]]:
    """Name of an input or output -> its axes of unknown length."""
    axes = {0: 'batch'} if options.dynamic_batch else {}
    if options.dynamic_size:
        axes.update({2: 'height', 3: 'width'})
    if isinstance(subject.model, WholeDetector):
        return {'image': axes, **({} if subject.model.fixed else {name: {0: 'detections'} for name in subject.outputs})}
    with torch.no_grad():
        values = subject.model(*subject.inputs.values())
    return {'image': axes, **{name: {axis: label if axis == 0 else f'{name}_{label}' for axis, label in axes.items()
                                     if value.ndim > axis}
                              for name, value in zip(subject.outputs, values, strict=True)}}


def _halved(graph: Any, layers_only: bool) -> Any:
    """Convert weights and maps to half precision; inputs and outputs keep single precision.

    Args:
        graph: In single precision.
        layers_only: Keep single precision outside of layers: half precision would move a box 1000 pixels from the
            corner by up to half a pixel. The names of such operations have no path of a layer.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel
    names = {node.name for node in graph.graph.node}
    kept = [name for name in names if layers_only and not name.rpartition('/')[0]]
    halved = OnnxModel(convert_float_to_float16(graph, keep_io_types=True, node_block_list=kept))
    casts = {node.output[0]: node for node in halved.nodes() if node.name not in names}
    for name, cast in casts.items():
        if cast.input[0] in casts:  # to half precision and back, between two that are kept
            cast.input[0] = casts[cast.input[0]].input[0]
            halved.replace_input_of_all_nodes(name, cast.input[0])
    halved.prune_graph(allow_remove_graph_inputs=False)
    halved.topological_sort()
    return halved.model


@torch.no_grad()
def save_graph(model: nn.Module, inputs: Mapping[str, Tensor], path: Path, outputs: Sequence[str],
               axes: Mapping[str, Mapping[int, str]] | None = None) -> None:
    """Write the graph of a model, without metadata.

    Args:
        model: In evaluation mode.
        inputs: Name -> an example.
        path: The file.
        outputs: Names of the outputs.
        axes: Name of an input or output -> its axes of unknown length, with their names.
    """
    # The tracing exporter works from torch 2.1 on; its successor needs onnxscript.
    legacy = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    with traceable(), quiet():
        torch.onnx.export(model, tuple(inputs.values()), str(path), input_names=list(inputs),
                          output_names=list(outputs), dynamic_axes=axes, opset_version=OPSET, **legacy)


def add_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Add metadata to a file."""
    onnx = need('onnx')
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, as_text(metadata))
    onnx.save(graph, path)


def count_operations(path: Path) -> Counter[str]:
    """Number of occurrences of each operation of a file."""
    return Counter(node.op_type for node in need('onnx').load(path).graph.node)


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; 0 threads leaves their number to onnxruntime."""
    onnxruntime = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a file with onnxruntime, on the CPU; 0 threads leaves their number to onnxruntime."""
    session = open_session(path, threads)
    names = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        feed = {name: value for name, value in inputs.items() if name in taken}
        return dict(zip(names, session.run(names, feed), strict=True))

    shape = tuple(size if isinstance(size, int) else None for size in session.get_inputs()[0].shape)
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map)
    return ExportedFile(path, run, shape, metadata)
