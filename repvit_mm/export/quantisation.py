"""8-bit ONNX graphs: weights with a scale for each output channel, maps with a range measured on images.

Convolutions and linear layers compute in 8 bits. In single precision stay all other operations, and the layers where
rounding shows most: the first, the depthwise ones (little to compute, channels of very different ranges), those of
squeeze-and-excitation (which scale whole channels), and the last before each output. OpenVINO takes the same graph.
"""
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Operations with weights.
WEIGHTED = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
#: Those of them that compute in 8 bits.
QUANTISED = ('Conv', 'Gemm')
#: How a map becomes one value for each channel.
_POOLING = ('ReduceMean', 'GlobalAveragePool')


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

    kept = sorted(float_layers(onnx.load(path).graph))
    # Seven bits for the weights: with eight, the sums of processors without VNNI overflow.
    quantize_static(path, path, Reader(), QuantFormat.QDQ, QUANTISED, per_channel=True, reduce_range=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=kept)


def float_layers(graph: Any) -> set[str]:
    """Names of the layers of an ONNX graph that stay in single precision; see above."""
    producers = {output: node for node in graph.node for output in node.output}
    image = graph.input[0].name
    found = set(_nearest_layers(producers, [output.name for output in graph.output]))
    for node in graph.node:
        if node.op_type in WEIGHTED and (node.input[0] == image or _is_grouped(node)
                                         or _is_pooled(producers, node.input[0])):
            found.add(node.name)
    return found


def _nearest_layers(producers: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    """The first layers on the ways back from some values."""
    todo, seen = list(names), set()
    while todo:
        name = todo.pop()
        if name in seen or name not in producers:
            continue
        seen.add(name)
        node = producers[name]
        if node.op_type in WEIGHTED:
            yield node.name
        else:
            todo += node.input


def _is_grouped(node: Any) -> bool:
    return any(attribute.name == 'group' and attribute.i > 1 for attribute in node.attribute)


def _is_pooled(producers: Mapping[str, Any], name: str) -> bool:
    """Whether a value comes from pooling a whole map, through layers and activations alone."""
    while name in producers and producers[name].op_type not in _POOLING:
        if producers[name].op_type not in (*WEIGHTED, 'Relu', 'Flatten'):
            return False
        name = producers[name].input[0]
    return name in producers
