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
    if options.precision == 'fp16':
        _halve(path)
    operations = need('ai_edge_litert.interpreter').Interpreter(str(path))._get_ops_details()
    kinds = {'CONV_2D': 'conv', 'DEPTHWISE_CONV_2D': 'conv'}  # it has no operation for a BatchNorm
    check_fused((GraphNode(kinds.get(operation['op_name'], 'other'), str(operation['inputs'][0]),
                           operation['op_name'] == 'DEPTHWISE_CONV_2D') for operation in operations),
                subject.convolutions)
    append_facts(path, subject)
    return Counter(operation['op_name'] for operation in operations)


def _halve(path: Path) -> None:
    """Keep the weights of a file in half precision; it computes in single precision."""
    need('ai_edge_quantizer')
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    quantizer = Quantizer(str(path))
    for name in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'CONV_2D_TRANSPOSE', 'FULLY_CONNECTED'):
        quantizer.add_weight_only_config('.*', TFLOperationName[name], 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    quantizer.quantize().export_model(str(path), overwrite=True)
