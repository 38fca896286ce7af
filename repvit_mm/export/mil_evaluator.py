"""Evaluates the program of a saved Core ML package in torch, operation by operation.

Core ML itself runs on macOS only. On other systems, this shows that the file on disk computes what the model computes:
program and weights are read from the package, and the operations follow the documentation of coremltools. Values are
rounded to half precision between operations where the program says so; sums within an operation use single precision.
"""
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .packages import need

#: Inputs of an operation: tensors, and constants as Python and NumPy values.
Inputs = Mapping[str, Any]


def _ints(values: Any) -> list[int]:
    return np.asarray(values).reshape(-1).astype(int).tolist()


def _padded(x: Tensor, inputs: Inputs, kernel: list[int], strides: list[int], dilations: list[int],
            value: float = 0.) -> Tensor:
    kind = inputs['pad_type']
    if kind == 'valid':
        return x
    if kind == 'custom':
        top, bottom, left, right = _ints(inputs['pad'])
    elif kind == 'same':
        spans = []
        for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
            total = max(0, (math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size)
            spans += [total // 2, total - total // 2]
        top, bottom, left, right = spans
    else:
        raise ExportError(f'padding of type {kind!r} is not supported')
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(inputs: Inputs) -> Tensor:
    weight, strides = inputs['weight'], _ints(inputs.get('strides', (1, 1)))
    dilations = _ints(inputs.get('dilations', (1, 1)))
    x = _padded(inputs['x'], inputs, list(weight.shape[2:]), strides, dilations)
    return F.conv2d(x, weight, inputs.get('bias'), strides, 0, dilations, int(inputs.get('groups', 1)))


def _max_pool(inputs: Inputs) -> Tensor:
    kernel, strides = _ints(inputs['kernel_sizes']), _ints(inputs['strides'])
    x = _padded(inputs['x'], inputs, kernel, strides, [1, 1], -math.inf)
    return F.max_pool2d(x, kernel, strides, ceil_mode=bool(inputs.get('ceil_mode', False)))


def _gelu(inputs: Inputs) -> Tensor:
    mode = inputs.get('mode', 'EXACT')
    if mode == 'SIGMOID_APPROXIMATION':
        return inputs['x'] * torch.sigmoid(1.702 * inputs['x'])
    return F.gelu(inputs['x'], approximate='none' if mode == 'EXACT' else 'tanh')


def _upsample_bilinear(inputs: Inputs) -> Tensor:
    align = bool(inputs.get('align_corners', True))
    if not align and not inputs.get('half_pixel_centers', True):
        raise ExportError('upsample_bilinear without half_pixel_centers is not supported')
    factors = [float(inputs['scale_factor_height']), float(inputs['scale_factor_width'])]
    return F.interpolate(inputs['x'], scale_factor=factors, mode='bilinear', align_corners=align)


def _upsample_nearest(inputs: Inputs) -> Tensor:
    factors = [float(inputs['scale_factor_height']), float(inputs['scale_factor_width'])]
    return F.interpolate(inputs['x'], scale_factor=factors, mode='nearest')


def _squeeze(inputs: Inputs) -> Tensor:
    axes = sorted((axis % inputs['x'].ndim for axis in _ints(inputs['axes'])), reverse=True)
    x = inputs['x']
    for axis in axes:
        x = x.squeeze(axis)
    return x


def _clip(inputs: Inputs) -> Tensor:
    return inputs['x'].clamp(float(inputs['alpha']), float(inputs['beta']))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda inputs: function(inputs['x'])


def _binary(function: Callable[[Any, Any], Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda inputs: function(_tensor(inputs['x']), _tensor(inputs['y']))


#: Operation of the program -> its implementation; those that RepViT, its heads and its necks are converted to.
OPERATIONS: dict[str, Callable[[Inputs], Tensor]] = {
    'add': _binary(torch.add),
    'cast': _unary(lambda x: x),  # run() converts every result to the type that the program gives it
    'clip': _clip,
    'concat': lambda inputs: torch.cat(inputs['values'], int(inputs['axis'])),
    'conv': _conv,
    'gelu': _gelu,
    'leaky_relu': lambda inputs: F.leaky_relu(inputs['x'], float(inputs['alpha'])),
    'linear': lambda inputs: F.linear(inputs['x'], inputs['weight'], inputs.get('bias')),
    'max_pool': _max_pool,
    'mul': _binary(torch.mul),
    'pow': _binary(torch.pow),
    'real_div': _binary(torch.div),
    'reduce_argmax': lambda inputs: inputs['x'].argmax(int(inputs['axis']), bool(inputs['keep_dims'])),
    'reduce_mean': lambda inputs: inputs['x'].mean(_ints(inputs['axes']), bool(inputs['keep_dims'])),
    'relu': _unary(F.relu),
    'relu6': _unary(F.relu6),
    'reshape': lambda inputs: inputs['x'].reshape(_ints(inputs['shape'])),
    'sigmoid': _unary(torch.sigmoid),
    'silu': _unary(F.silu),
    'softmax': lambda inputs: inputs['x'].softmax(int(inputs.get('axis', -1))),
    'sqrt': _unary(torch.sqrt),
    'squeeze': _squeeze,
    'sub': _binary(torch.sub),
    'upsample_bilinear': _upsample_bilinear,
    'upsample_nearest_neighbor': _upsample_nearest,
}
#: Type of the program -> torch's.
_DTYPES = {'fp16': torch.float16, 'fp32': torch.float32, 'int32': torch.int32, 'uint8': torch.uint8, 'bool': torch.bool}


class MILProgram:
    """The program of a saved package.

    Args:
        package: A ``.mlpackage`` of an ML Program.
        known: The operations that can be evaluated, a table like :data:`OPERATIONS`.

    Attributes:
        operations: Its operations without the constants, in order, as coremltools represents them.
        outputs: Names of its outputs.

    Raises:
        ExportError: If coremltools is not installed.
    """

    def __init__(self, package: Path, known: Mapping[str, Callable[[Inputs], Tensor]] = OPERATIONS):
        coremltools = need('coremltools')
        self._known = known
        from coremltools.converters.mil.frontend.milproto.load import load
        with quiet():
            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            spec = model.get_spec()
            program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
        self._function = program.functions['main']
        everything = list(self._function.operations)
        self._constants = [op for op in everything if _is_constant(op)]
        self.operations = [op for op in everything if not _is_constant(op)]
        self.outputs = [output.name for output in self._function.outputs]

    def counts(self) -> Counter[str]:
        """How often each operation occurs."""
        return Counter(op.op_type for op in (*self.operations, *self._constants) if op.op_type != 'const')

    def weight_of(self, operation: Any) -> np.ndarray:
        """The weight of a convolution, decompressed."""
        weight = operation.inputs['weight']
        return weight.val if weight.val is not None else weight.op.materialized_val_inference()

    @torch.no_grad()
    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the program.

        Args:
            **inputs: Tensor for each input; an image is float (1, channels, H, W) of pixels from 0 to 255.

        Returns:
            Name -> value of every tensor that the program computes; half precision as float.

        Raises:
            ExportError: If the program has an unsupported operation.
        """
        values: dict[str, Any] = dict(inputs)
        for op in self._constants:
            values[op.outputs[0].name] = _constant(op)
        for op in self.operations:
            if op.op_type == 'classify':  # the label of the largest probability, and the probabilities unchanged
                label, probabilities = op.outputs
                values[probabilities.name] = values[op.inputs['probabilities'].name]
                values[label.name] = values[probabilities.name].argmax()
                continue
            if op.op_type not in self._known:
                raise ExportError(f'the package cannot be checked: the operation {op.op_type} is not supported, only '
                                  f'{", ".join(self._known)}')
            given = {key: [values[one.name] for one in value] if isinstance(value, list | tuple)
                     else values[value.name] for key, value in op.inputs.items() if value is not None}
            results = self._known[op.op_type](given)
            results = (results,) if len(op.outputs) == 1 else results
            for result, output in zip(results, op.outputs, strict=True):
                values[output.name] = _rounded(result, output)
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _is_constant(op: Any) -> bool:
    return op.op_type == 'const' or op.op_type.startswith('constexpr_')


def _constant(op: Any) -> Any:
    """A tensor for an array, other values unchanged; coremltools decompresses compressed weights."""
    value = op.outputs[0].val if op.op_type == 'const' else op.materialized_val_inference()
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == 'f':
        return torch.from_numpy(np.array(value)).float()
    return value


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(np.asarray(value)).float()


def _rounded(value: Tensor, output: Any) -> Tensor:
    """The value rounded to the program's type; half precision is then held as float."""
    from coremltools.converters.mil.mil import types
    dtype = _DTYPES[types.builtin_to_string(output.dtype)]
    value = value.to(dtype)
    return value.float() if dtype == torch.float16 else value


@contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' warnings about features that need macOS."""
    import io
    import logging
    from contextlib import redirect_stderr
    logger = logging.getLogger('coremltools')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
