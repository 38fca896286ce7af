"""Export to ONNX, proven with onnxruntime."""
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..files import atomic_write
from ..inference import InferenceModel
from .packages import need
from .pictures import load_pictures, normalise, to_pixels
from .provenance import describe
from .verification import (
    Comparison,
    ExportReport,
    GraphNode,
    check_fused,
    check_shape,
    compare,
    constant_scales,
    count_convolutions,
    fused_for_export,
    size_on_disk,
)

OPSET = 17
#: Largest difference from PyTorch, relative to the largest value of an output: sums are rounded in another order.
BOUND = 2e-5


def export_onnx(model: InferenceModel, shape: Sequence[int], out: str | Path, dynamic_size: bool = False,
                pictures: Sequence[str | Path] = ()) -> ExportReport:
    """Export the fused form to ONNX, for normalised images and any batch size.

    The outputs are a classifier's logits, a segmentor's logits at the size of the image, the maps of a backbone, or
    those of a detector's neck. The metadata hold mean, standard deviation and channel order of the image, and the
    class names.

    Args:
        model: The model; not modified.
        shape: Height and width of the image, in pixels.
        out: The file; an existing one is replaced.
        dynamic_size: Accept any height and width; for segmentors and detectors, any multiple of 32.
        pictures: Files to compare the outputs on; see :func:`repvit_mm.export.load_pictures`.

    Returns:
        What was written, and how it compares with PyTorch.

    Raises:
        ExportError: If the model cannot be exported, or the file's outputs differ from PyTorch's.
        UserError: If the file cannot be written.
    """
    onnx, _ = need('onnx'), need('onnxruntime')
    out = Path(out)
    check_shape(model, shape)
    fused = fused_for_export(model)
    image = torch.zeros(1, model.in_channels, *shape)
    with torch.no_grad(), atomic_write(out) as path:
        save_graph(fused, image, path, fused.output_names(len(fused(image))), True, dynamic_size)
        graph = onnx.load(path)
        _set_metadata(graph, describe(model))
        onnx.checker.check_model(graph, full_check=True)
        check_fused(_nodes(graph), count_convolutions(fused, image))
        onnx.save(graph, path)
        sizes = [shape, [size + 32 for size in shape]] if dynamic_size else [shape]
        comparisons = [result for size in sizes for result in _prove(path, fused, size, pictures)]
        size = size_on_disk(path)
    operations = Counter(node.op_type for node in graph.graph.node)
    return ExportReport(out, size, operations, tuple(comparisons), 'onnxruntime')


@torch.no_grad()
def save_graph(model: nn.Module, image: Tensor, path: Path, names: Sequence[str], dynamic_batch: bool = False,
               dynamic_size: bool = False) -> None:
    """Write the graph of a model, without metadata.

    Args:
        model: In evaluation mode.
        image: Input of the shape to export.
        path: The file.
        names: Names of the outputs.
        dynamic_batch: Accept any number of images.
        dynamic_size: See :func:`export_onnx`.
    """
    need('onnx')
    axes = {0: 'batch'} if dynamic_batch else {}
    if dynamic_size:
        axes.update({2: 'height', 3: 'width'})
    outputs = {name: {axis: label if axis == 0 else f'{name}_{label}' for axis, label in axes.items()
                      if value.ndim > axis} for name, value in zip(names, model(image), strict=True)}
    # The TorchScript exporter works with all supported versions of torch; its successor needs onnxscript.
    legacy = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    with constant_scales(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about sizes that become constants; constant_scales takes care of these
        torch.onnx.export(model, (image,), str(path), input_names=['image'], output_names=list(names),
                          dynamic_axes={'image': axes, **outputs} if axes else None, opset_version=OPSET, **legacy)


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


@torch.no_grad()
def _prove(path: Path, fused: InferenceModel, shape: Sequence[int],
           pictures: Sequence[str | Path]) -> list[Comparison]:
    """Compare on one picture, then on three at once."""
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    images = normalise(to_pixels(load_pictures(shape, 3, pictures), fused.normalisation.channels),
                       fused.normalisation)
    results = []
    for batch in (images[:1], images):
        outputs = session.run(None, {'image': batch.numpy()})
        if len(outputs) != len(expected := fused(batch)):
            raise ExportError(f'{path.name} has {len(outputs)} outputs, PyTorch {len(expected)}')
        results += [compare(name, torch.from_numpy(np.asarray(output)), value, BOUND)
                    for name, output, value in zip(names, outputs, expected, strict=True)]
    return results


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; with 0 threads, onnxruntime chooses their number."""
    onnxruntime = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
