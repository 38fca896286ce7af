"""LiteRT, the successor of TensorFlow Lite: one ``.tflite``, for Android and others."""
import contextlib
import io
import logging
import warnings
from collections import Counter
from pathlib import Path

from .packages import need
from .runtimes import append_facts
from .subject import Options, Subject
from .verification import GraphNode, check_fused, constant_scales


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph for one image (1, 3, H, W) at a time; the metadata end the file.

    Returns:
        How often each operation occurs.

    Raises:
        ExportError: If the graph is not fused.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), constant_scales():
        warnings.simplefilter('ignore')
        converter = need('litert_torch')
        logging.getLogger('litert_torch').setLevel(logging.ERROR)
        converter.convert(subject.model, tuple(subject.inputs.values())).export(str(path))
    operations = need('ai_edge_litert.interpreter').Interpreter(str(path))._get_ops_details()
    kinds = {'CONV_2D': 'conv', 'DEPTHWISE_CONV_2D': 'conv'}  # it has no operation for a BatchNorm
    check_fused((GraphNode(kinds.get(operation['op_name'], 'other'), str(operation['inputs'][0]),
                           operation['op_name'] == 'DEPTHWISE_CONV_2D') for operation in operations),
                subject.convolutions)
    append_facts(path, subject)
    return Counter(operation['op_name'] for operation in operations)
