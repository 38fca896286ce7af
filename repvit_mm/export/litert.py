"""LiteRT, the successor of TensorFlow Lite: one ``.tflite``, for Android and others."""
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .files import ExportedFile, append_facts, read_facts
from .packages import need
from .prepare import Options, Subject


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph for one image (1, 3, H, W); the metadata end the file.

    Returns:
        Number of occurrences of each operation.
    """
    need('litert_torch').convert(subject.model, tuple(subject.inputs.values())).export(str(path))
    if options.precision == 'fp16':
        _halve(path)
    operations = need('ai_edge_litert.interpreter').Interpreter(str(path))._get_ops_details()
    append_facts(path, subject)
    return Counter(operation['op_name'] for operation in operations)


def _halve(path: Path) -> None:
    """Store the weights of a file in half precision; it computes in single precision."""
    need('ai_edge_quantizer')  # not among the packages of the format
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    quantizer = Quantizer(str(path))
    for name in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'CONV_2D_TRANSPOSE', 'FULLY_CONNECTED'):
        quantizer.add_weight_only_config('.*', TFLOperationName[name], 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    quantizer.quantize().export_model(str(path), overwrite=True)


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a graph, on the CPU; 0 threads leaves their number to LiteRT."""
    interpreters, facts = need('ai_edge_litert.interpreter'), read_facts(path)
    interpreter = interpreters.Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    source, targets = interpreter.get_input_details()[0]['index'], interpreter.get_output_details()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        interpreter.set_tensor(source, inputs['image'])
        interpreter.invoke()
        return {name: interpreter.get_tensor(target['index'])
                for name, target in zip(facts['outputs'], targets, strict=True)}
    return ExportedFile(path, run, tuple(facts['shape']), facts)
