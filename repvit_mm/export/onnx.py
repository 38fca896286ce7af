"""ONNX, for onnxruntime and others."""
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detectors import WholeDetector
from .packages import need
from .quantisation import quantise
from .subject import Options, Subject
from .verification import GraphNode, check_fused, constant_scales

OPSET = 17


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph with its metadata, for any batch size, and check that it is valid and fused.

    Returns:
        How often each operation occurs.
    """
    onnx = need('onnx')
    save_graph(subject.model, subject.inputs, path, subject.outputs, options.selection is None, options.dynamic_size)
    graph = onnx.load(path)
    graph.producer_name, graph.doc_string = 'repvit-mm', subject.facts['description']
    _add_facts(graph, subject.facts)
    if options.precision == 'fp16':
        graph = _halved(graph, isinstance(subject.model, WholeDetector))
    onnx.checker.check_model(graph, full_check=True)
    check_fused(_nodes(graph), subject.convolutions)
    onnx.save(graph, path)
    if options.precision == 'int8':
        quantise(path, map(subject.preparation(options), options.quantisation.pictures.calibration))
    graph = onnx.load(path)
    return Counter(node.op_type for node in graph.graph.node)


def _halved(graph: Any, layers_only: bool) -> Any:
    """The graph with weights and maps in half precision, and inputs and outputs in single precision.

    Args:
        graph: In single precision.
        layers_only: Keep single precision outside of layers: half would move a box 1000 pixels from the corner by up
            to half a pixel. Such operations have no layer's path in their names.
    """
    need('onnxruntime')
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
def save_graph(model: nn.Module, inputs: Mapping[str, Tensor], path: Path, names: Sequence[str],
               dynamic_batch: bool = False, dynamic_size: bool = False) -> None:
    """Write the graph of a model, without metadata.

    Args:
        model: In evaluation mode.
        inputs: Name -> an example; the first one is the image, of the shape that is exported.
        path: The file.
        names: Names of the outputs.
        dynamic_batch: Accept any number of images.
        dynamic_size: See :class:`repvit_mm.export.subject.Options`.
    """
    need('onnx')
    axes = {0: 'batch'} if dynamic_batch else {}
    if dynamic_size:
        axes.update({2: 'height', 3: 'width'})
    if isinstance(model, WholeDetector):
        outputs = {name: {0: 'detections'} for name in names}
    else:
        outputs = {name: {axis: label if axis == 0 else f'{name}_{label}' for axis, label in axes.items()
                          if value.ndim > axis}
                   for name, value in zip(names, model(*inputs.values()), strict=True)}
    # The exporter that traces works from torch 2.1 on; the one that took its place needs a later torch and onnxscript.
    legacy = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    with constant_scales(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about sizes becoming constants, which constant_scales is for
        torch.onnx.export(model, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=list(names),
                          dynamic_axes={'image': axes, **outputs}, opset_version=OPSET, **legacy)


def add_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Add metadata to a file."""
    onnx = need('onnx')
    graph = onnx.load(path)
    _add_facts(graph, facts)
    onnx.save(graph, path)


def _add_facts(graph: Any, facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)


def _nodes(graph: Any) -> Iterator[GraphNode]:
    from onnx import numpy_helper
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == 'Conv':
            groups = next((attribute.i for attribute in node.attribute if attribute.name == 'group'), 1)
            weight = weights.get(node.input[1])
            depthwise = groups > 1 and weight is not None and groups == weight.shape[0]
            yield GraphNode('conv', node.input[0], depthwise)
        else:
            yield GraphNode('norm' if node.op_type == 'BatchNormalization' else 'other', next(iter(node.input), ''))
