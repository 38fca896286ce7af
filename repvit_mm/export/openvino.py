"""OpenVINO's own format: the graph in ``.xml``, the weights in ``.bin`` beside it."""
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def add_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Add metadata to a file."""
    openvino = need('openvino')
    graph = openvino.Core().read_model(path)
    known = json.loads(graph.get_rt_info(METADATA).astype(str))
    graph.set_rt_info(json.dumps({**known, **facts}), METADATA)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # the weights are mapped while the graph is open
        new = Path(folder) / path.name
        openvino.save_model(graph, new, compress_to_fp16=False)
        del graph
        for suffix in ('.bin', '.xml'):
            new.with_suffix(suffix).replace(path.with_suffix(suffix))
