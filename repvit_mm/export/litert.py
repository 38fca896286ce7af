"""LiteRT, the successor of TensorFlow Lite: one ``.tflite``, for Android and others."""
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from .files import ExportedFile, append_metadata, read_metadata
from .packages import need
from .prepare import Options, Subject
from .quantisation import Operation, float_layers

#: Kinds of operations, for :class:`repvit_mm.export.quantisation.Operation`.
_KINDS = {'CONV_2D': 'layer', 'FULLY_CONNECTED': 'layer', 'DEPTHWISE_CONV_2D': 'grouped', 'TRANSPOSE_CONV': 'product',
          'BATCH_MATMUL': 'product', 'MEAN': 'pool', 'TRANSPOSE': 'moving', 'PAD': 'moving', 'RESHAPE': 'moving',
          'RELU': 'passing'}
#: Names that the quantizer has for layers with weights; the first two compute in 8 bits.
_LAYERS = ('CONV_2D', 'FULLY_CONNECTED', 'DEPTHWISE_CONV_2D', 'CONV_2D_TRANSPOSE')


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a graph for one image, (1, 3, H, W) or in NHWC (1, H, W, 3); the metadata end the file.

    Returns:
        Number of occurrences of each operation.
    """
    package, model, (image,) = need('litert_torch'), subject.model, subject.inputs.values()
    if options.layout == 'nhwc':
        with torch.no_grad():
            maps = [index for index, value in enumerate(model(image)) if value.ndim == 4]
        model, image = package.to_channel_last_io(model, [0], maps).eval(), image.permute(0, 2, 3, 1)
    package.convert(model, (image,)).export(str(path))
    if options.precision != 'fp32':
        _quantise(path, subject, options)
    operations = need('ai_edge_litert.interpreter').Interpreter(str(path))._get_ops_details()
    append_metadata(path, subject._replace(metadata={**subject.metadata, 'layout': options.layout}))
    return Counter(operation['op_name'] for operation in operations)


def _quantise(path: Path, subject: Subject, options: Options) -> None:
    """Store the weights of a file in half precision or int8; in ``'int8'`` it also computes in 8 bits."""
    need('ai_edge_quantizer')  # not among the packages of the format
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    quantizer, ranges = Quantizer(str(path)), None
    if options.precision == 'int8':
        for name in _layers_in_8_bits(path):
            for kind in _LAYERS[:2]:
                quantizer.add_static_config(f'^{re.escape(name)};$', TFLOperationName[kind], 8, 8)
        for image in options.quantisation.images.calibration:  # all at once would be kept in memory
            inputs = {'args_0': _laid_out(subject.load(image)['image'], options.layout)}
            ranges = quantizer.calibrate({'serving_default': [inputs]}, ranges)
    else:
        how = (16, AlgorithmName.FLOAT_CASTING) if options.precision == 'fp16' else (
            8, AlgorithmName.MIN_MAX_UNIFORM_QUANT)
        for kind in _LAYERS:
            quantizer.add_weight_only_config('.*', TFLOperationName[kind], how[0], algorithm_key=how[1])
    quantizer.quantize(ranges).export_model(str(path), overwrite=True)


def _layers_in_8_bits(path: Path) -> list[str]:
    """Names of the outputs of the layers that compute in 8 bits."""
    file = need('ai_edge_litert.interpreter').Interpreter(str(path))
    operations = [Operation(file._get_tensor_details(details['outputs'][0], 0)['name'],
                            _KINDS.get(details['op_name'], ''), details['inputs'], details['outputs'])
                  for details in file._get_ops_details()]
    kept = float_layers(operations, *([value['index'] for value in values] for values in (
        file.get_input_details(), file.get_output_details())))
    return [operation.name for operation in operations if operation.kind == 'layer' and operation.name not in kept]


def _laid_out(image: np.ndarray, layout: str | None, back: bool = False) -> np.ndarray:
    """A map (N, C, H, W) in a layout, or back from it; what is no map stays."""
    if layout != 'nhwc' or image.ndim != 4:
        return image
    return np.ascontiguousarray(image.transpose((0, 3, 1, 2) if back else (0, 2, 3, 1)))


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a graph, on the CPU; 0 threads leaves their number to LiteRT."""
    interpreters, metadata = need('ai_edge_litert.interpreter'), read_metadata(path)
    interpreter = interpreters.Interpreter(str(path), num_threads=threads or None)
    interpreter.allocate_tensors()
    source, targets = interpreter.get_input_details()[0]['index'], interpreter.get_output_details()
    layout = metadata.get('layout')  # files of version 0.2 have none

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        interpreter.set_tensor(source, _laid_out(inputs['image'], layout))
        interpreter.invoke()
        return {name: _laid_out(interpreter.get_tensor(target['index']), layout, back=True)
                for name, target in zip(metadata['outputs'], targets, strict=True)}
    return ExportedFile(path, run, tuple(metadata['shape']), metadata)
