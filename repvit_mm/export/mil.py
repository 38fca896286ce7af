"""Evaluates the program of a saved Core ML package, operation by operation.

Core ML itself runs on macOS only. On other systems, this shows that the file on disk equals the model:
program and weights are read from the package. coremltools evaluates most operations itself, as for folding constants;
layers are computed in torch. Values are rounded to half precision between operations where the program says so; sums
within an operation use single precision.
"""
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .packages import need
from .tracing import quiet


class MILProgram:
    """The program of a saved package.

    Args:
        package: A ``.mlpackage`` of an ML Program.

    Attributes:
        spec: The description of the package.
        operations: Its operations without the constants, in order, as coremltools represents them.

    Raises:
        ExportError: If coremltools is not installed.
    """

    def __init__(self, package: Path):
        coremltools = need('coremltools')
        from coremltools.converters.mil.frontend.milproto.load import load
        with quiet():
            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            self.spec = model.get_spec()
            program = load(self.spec, specification_version=self.spec.specificationVersion,
                           file_weights_dir=model.weights_dir)
        self._main = program.functions['main']
        for op in self._main.operations:
            if isinstance(op.outputs[0].val, np.bool_):  # NumPy's functions take Python's only
                op.outputs[0]._sym_val = SimpleNamespace(val=bool(op.outputs[0].val))
        self.operations = [op for op in self._main.operations if op.op_type != 'const']

    def counts(self) -> Counter[str]:
        """Number of occurrences of each operation."""
        return Counter(op.op_type for op in self.operations)

    def source_of(self, kind: str) -> str:
        """Name of the input of the last operation of a kind."""
        return next(op.inputs['x'].name for op in reversed(self.operations) if op.op_type == kind)

    @torch.no_grad()
    @np.errstate(all='ignore')
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the program.

        Args:
            inputs: Array for each input; an image is float (1, channels, H, W) of pixels from 0 to 255.

        Returns:
            Name -> value of every result of an operation; half precision as float32.

        Raises:
            ExportError: If the program has an unsupported operation.
        """
        for name, value in inputs.items():
            _assign(self._main.inputs[name], value)
        found = {}
        for op in self.operations:
            if op.op_type == 'classify':  # the label of the largest probability, and the probabilities unchanged
                found[op.outputs[1].name] = op.probabilities.val
                continue
            results = _evaluate(op)
            for result, output in zip(results if len(op.outputs) > 1 else [results], op.outputs, strict=True):
                found[output.name] = _assign(output, result)
        return found


def _evaluate(op: Any) -> Any:
    if op.op_type.startswith('constexpr_'):  # compressed weights
        return op.materialized_val_inference()
    try:
        return LAYERS[op.op_type](op) if op.op_type in LAYERS else op.value_inference()
    except NotImplementedError as error:
        raise ExportError(f'the package cannot be checked: the operation {op.op_type} is not supported') from error


def _assign(variable: Any, value: Any) -> np.ndarray:
    """Give a variable a value of its type; half precision is held as float32."""
    from coremltools.converters.mil.mil import types
    dtype = types.nptype_from_builtin(variable.dtype)
    value = np.asarray(value, dtype)
    value = value.astype(np.float32) if dtype == np.float16 else value
    if types.is_tensor(variable.sym_type):  # shapes of a package for several sizes are open
        variable._sym_type = types.tensor(variable.dtype, value.shape)
    variable._sym_val = SimpleNamespace(val=value[()])
    return value


def _tensor(variable: Any) -> Tensor | None:
    return None if variable is None else torch.from_numpy(np.array(variable.val, np.float32))


def _padding(op: Any) -> list[int]:
    """Vertical and horizontal padding."""
    pad = [0] * 4 if op.pad_type.val == 'valid' else op.pad.val.tolist()
    if op.pad_type.val not in ('valid', 'custom') or pad[::2] != pad[1::2]:
        raise NotImplementedError
    return pad[::2]


def _batch_norm(op: Any) -> Tensor:
    values = [_tensor(value) for value in (op.x, op.mean, op.variance, op.gamma, op.beta)]
    return F.batch_norm(*values, eps=float(op.epsilon.val))


def _scatter(op: Any) -> np.ndarray:
    if op.mode.val != 'update':
        raise NotImplementedError
    found = np.moveaxis(np.array(op.data.val), op.axis.val, 0)
    found[op.indices.val] = op.updates.val
    return np.moveaxis(found, 0, op.axis.val)


def _concat(op: Any) -> np.ndarray:
    if not op.interleave.val:
        return op.value_inference()  # ignores the setting
    values, axis = [value.val for value in op.values], op.axis.val % op.values[0].rank
    shape = [*values[0].shape]
    shape[axis] *= len(values)
    return np.stack(values, axis + 1).reshape(shape)


def _conv(op: Any) -> Tensor:
    return F.conv2d(_tensor(op.x), _tensor(op.weight), _tensor(op.bias), op.strides.val.tolist(), _padding(op),
                    op.dilations.val.tolist(), int(op.groups.val))


def _conv_transpose(op: Any) -> Tensor:
    if any(_padding(op)):
        raise NotImplementedError
    return F.conv_transpose2d(_tensor(op.x), _tensor(op.weight), _tensor(op.bias), op.strides.val.tolist(),
                              groups=int(op.groups.val), dilation=op.dilations.val.tolist())


def _pool(op: Any) -> Tensor:
    settings = dict(kernel_size=op.kernel_sizes.val.tolist(), stride=op.strides.val.tolist(), padding=_padding(op),
                    ceil_mode=bool(op.ceil_mode.val))
    if op.op_type == 'max_pool':
        return F.max_pool2d(_tensor(op.x), **settings)
    return F.avg_pool2d(_tensor(op.x), **settings, count_include_pad=not op.exclude_padding_from_average.val)


def _gelu(op: Any) -> Tensor:
    if op.mode.val == 'SIGMOID_APPROXIMATION':
        return op.value_inference()
    return F.gelu(_tensor(op.x), approximate='none' if op.mode.val == 'EXACT' else 'tanh')


def _upsample(op: Any) -> Tensor:
    scale = [float(op.scale_factor_height.val), float(op.scale_factor_width.val)]
    if op.op_type == 'upsample_nearest_neighbor':
        return F.interpolate(_tensor(op.x), scale_factor=scale)
    if op.half_pixel_centers is not None and op.half_pixel_centers.val == op.align_corners.val:
        raise NotImplementedError
    return F.interpolate(_tensor(op.x), scale_factor=scale, mode='bilinear', align_corners=bool(op.align_corners.val))


def _resize_bilinear(op: Any) -> Tensor:
    mode, size = op.sampling_mode.val, [int(op.target_size_height.val), int(op.target_size_width.val)]
    if mode not in ('STRICT_ALIGN_CORNERS', 'ALIGN_CORNERS', 'UNALIGN_CORNERS'):
        raise NotImplementedError
    return F.interpolate(_tensor(op.x), size, mode='bilinear', align_corners=mode != 'UNALIGN_CORNERS')


def _resample(op: Any) -> Tensor:
    modes = op.sampling_mode.val, op.padding_mode.val, op.coordinates_mode.val
    if modes != ('bilinear', 'constant', 'normalized_minus_one_to_one') or op.padding_value.val:
        raise NotImplementedError
    return F.grid_sample(_tensor(op.x), _tensor(op.coordinates), align_corners=bool(op.align_corners.val))


#: Operation -> its implementation, where coremltools has none or a slow one.
LAYERS: dict[str, Callable[[Any], Tensor | np.ndarray]] = {
    'avg_pool': _pool,
    'batch_norm': _batch_norm,
    'concat': _concat,
    'conv': _conv,
    'conv_transpose': _conv_transpose,
    'gather_nd': lambda op: op.x.val[tuple(np.moveaxis(op.indices.val, -1, 0))],
    'gelu': _gelu,
    'max_pool': _pool,
    'resample': _resample,
    'resize_bilinear': _resize_bilinear,
    'scatter': _scatter,
    'silu': lambda op: F.silu(_tensor(op.x)),
    'upsample_bilinear': _upsample,
    'upsample_nearest_neighbor': _upsample,
}
