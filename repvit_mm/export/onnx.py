"""Export to ONNX, proven with onnxruntime."""
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..files import atomic_write
from ..inference import InferenceModel
from .detectors import Selection, WholeDetector
from .packages import need
from .proof import prove
from .provenance import describe
from .runtimes import open_onnx
from .verification import (
    BOUNDS,
    ExportReport,
    GraphNode,
    check_fused,
    check_shape,
    constant_scales,
    count_convolutions,
    fused_for_export,
    size_on_disk,
)

OPSET = 17


def export_onnx(model: InferenceModel, shape: Sequence[int], out: str | Path, dynamic_size: bool = False,
                pictures: Sequence[str | Path] = (), selection: Selection | None = None) -> ExportReport:
    """Export the fused form to ONNX, for normalised images and any batch size.

    The outputs are a classifier's logits, a segmentor's logits at the size of the image, the maps of a backbone, or
    those of a detector's neck; with a selection what the whole detector finds in one image, see
    :class:`repvit_mm.export.detectors.WholeDetector`. The metadata say how the image is prepared and what the outputs
    are, and name the classes.

    Args:
        model: The model; not modified.
        shape: Height and width of the image, in pixels.
        out: The file; an existing one is replaced.
        dynamic_size: Accept any height and width; for segmentors and detectors, any multiple of 32.
        pictures: Files to compare the outputs on; see :func:`repvit_mm.export.load_pictures`.
        selection: Which detections a whole detector keeps; None for backbone and neck.

    Returns:
        What was written, and how it compares with PyTorch.

    Raises:
        ExportError: If the model cannot be exported, or the file's outputs differ from PyTorch's.
        UserError: If the file cannot be written.
    """
    need('onnxruntime')
    out = Path(out)
    subject = subject_of(model, shape, selection)
    with atomic_write(out) as path:
        operations = write_onnx(subject, shape, path, dynamic_size)
        file = open_onnx(path)
        comparisons = [result for size in proven_sizes(shape, dynamic_size)
                       for result in prove(file, subject, size, BOUNDS['fp32'], pictures)]
        size = size_on_disk(path)
    return ExportReport(out, size, operations, tuple(comparisons), 'onnxruntime')


def subject_of(model: InferenceModel, shape: Sequence[int],
               selection: Selection | None) -> InferenceModel | WholeDetector:
    """The fused form of what is exported; the arguments are those of :func:`export_onnx`."""
    if selection is not None and model.task.name != 'detection':
        raise ExportError(f'{model.name} is not a detector: it has no detections to select')
    check_shape(model, shape)
    fused = fused_for_export(model)
    return fused if selection is None else WholeDetector(fused, selection)


def proven_sizes(shape: Sequence[int], dynamic_size: bool) -> list[list[int]]:
    """Sizes of the image that a file is proven with."""
    return [list(shape), [size + 32 for size in shape]] if dynamic_size else [list(shape)]


@torch.no_grad()
def write_onnx(subject: InferenceModel | WholeDetector, shape: Sequence[int], path: Path,
               dynamic_size: bool) -> Counter[str]:
    """Write a graph with its metadata, and check that it is valid and fused; returns how often each operation occurs.

    Args:
        subject: In its fused form.
        shape: Height and width of the image, in pixels.
        path: The file.
        dynamic_size: See :func:`export_onnx`.
    """
    onnx = need('onnx')
    if isinstance(subject, WholeDetector):
        fused, inputs = subject.fused, subject.example(shape)
        save_graph(subject, inputs, path, subject.output_names, dynamic_size=dynamic_size)
        facts = {**describe(fused), **subject.facts(shape, dynamic_size)}
    else:
        fused, inputs = subject, {'image': torch.zeros(1, subject.in_channels, *shape)}
        save_graph(fused, inputs, path, fused.output_names(len(fused(inputs['image']))), True, dynamic_size)
        facts = describe(fused)
    graph = onnx.load(path)
    _set_metadata(graph, facts)
    onnx.checker.check_model(graph, full_check=True)
    check_fused(_nodes(graph), count_convolutions(subject, *inputs.values()))
    onnx.save(graph, path)
    return Counter(node.op_type for node in graph.graph.node)


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
        dynamic_size: See :func:`export_onnx`.
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


def _set_metadata(graph: Any, metadata: dict[str, Any]) -> None:
    graph.producer_name = 'repvit-mm'
    graph.doc_string = metadata['description']
    for key, value in metadata.items():
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
