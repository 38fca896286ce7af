"""8-bit graphs: weights with a scale for each output channel, maps with a range measured on images.

Convolutions and linear layers compute in 8 bits. In single precision stay all other operations, and the layers where
rounding shows most: the first, the depthwise ones (little to compute, channels of very different ranges), those of
squeeze-and-excitation (which scale whole channels), and the last before each output. OpenVINO takes the graph of ONNX.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Kinds of operations with weights; a ``'product'`` of two maps and a grouped layer never compute in 8 bits.
LAYERS = ('layer', 'grouped', 'product')
#: ONNX's operations that compute in 8 bits.
QUANTISED = ('Conv', 'Gemm')
_KINDS = {'Conv': 'layer', 'Gemm': 'layer', 'ConvTranspose': 'product', 'MatMul': 'product', 'ReduceMean': 'pool',
          'GlobalAveragePool': 'pool', 'Relu': 'passing', 'Flatten': 'passing'}


class Operation(NamedTuple):
    """An operation of a graph.

    Attributes:
        name: Its name.
        kind: One of :data:`LAYERS`; ``'pool'``: a map becomes one value for each channel; ``'moving'``: only moves
            values; ``'passing'``: moves them, or an activation; or ``''``.
        inputs: Names of values; of a layer the map first.
        outputs: Names of values.
    """

    name: str
    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def quantise(path: Path, inputs: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Overwrite a graph with its 8-bit form, with the same metadata.

    Args:
        path: The graph in single precision, of convolutions without BatchNorm.
        inputs: Name of each input -> array, for each image to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter(inputs)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.inputs, None)

    graph = onnx.load(path).graph
    kept = sorted(float_layers([Operation(
        node.name, 'grouped' if any(part.name == 'group' and part.i > 1 for part in node.attribute)
        else _KINDS.get(node.op_type, ''), node.input, node.output) for node in graph.node],
        [graph.input[0].name], [output.name for output in graph.output]))
    # Seven bits for the weights: with eight, the sums of processors without VNNI overflow.
    quantize_static(path, path, Reader(), QuantFormat.QDQ, QUANTISED, per_channel=True, reduce_range=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=kept)


def float_layers(operations: Iterable[Operation], inputs: Iterable[str], outputs: Iterable[str]) -> set[str]:
    """Names of the layers of a graph that stay in single precision; see above.

    Args:
        operations: All of the graph.
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs.
    """
    producers = {output: operation for operation in operations for output in operation.outputs}
    images, found = set(inputs), set(_nearest_layers(producers, outputs))
    for operation in producers.values():
        if operation.kind in LAYERS and (
                operation.kind == 'grouped' or _source(producers, operation, ('moving',)) in images
                or getattr(producers.get(_source(producers, operation, ('moving', 'passing', *LAYERS))), 'kind', '')
                == 'pool'):
            found.add(operation.name)
    return found


def _nearest_layers(producers: Mapping[str, Operation], names: Iterable[str]) -> Iterator[str]:
    """The first layers on the ways back from some values."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name in seen or name not in producers:
            continue
        seen.add(name)
        if producers[name].kind in LAYERS:
            yield producers[name].name
        else:
            todo.extend(producers[name].inputs)  # arrays, of LiteRT


def _source(producers: Mapping[str, Operation], operation: Operation, kinds: Sequence[str]) -> str:
    """The value that an operation's map comes from, through operations of some kinds alone."""
    name = operation.inputs[0]
    while name in producers and producers[name].kind in kinds:
        name = producers[name].inputs[0]
    return name
