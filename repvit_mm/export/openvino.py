"""OpenVINO's own format: the graph in ``.xml``, the weights in ``.bin`` beside it."""
import json
import tempfile
from collections import Counter
from pathlib import Path

from . import onnx
from .packages import need
from .runtimes import METADATA
from .subject import Options, Subject


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph, by way of ONNX; its inputs, outputs and metadata are those of ONNX.

    Returns:
        How often each operation occurs.
    """
    openvino = need('openvino')
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / 'model.onnx'
        onnx.build(subject, graph, options)
        converted = openvino.convert_model(graph)
    converted.set_rt_info(json.dumps(subject.facts), METADATA)
    openvino.save_model(converted, path, compress_to_fp16=options.precision == 'fp16')
    return Counter(operation.get_type_name() for operation in converted.get_ops())
