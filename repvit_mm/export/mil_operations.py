"""Operations of Core ML programs in torch, after the documentation of coremltools."""
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError

#: Inputs of an operation: tensors, and constants as Python and NumPy values.
Inputs = Mapping[str, Any]


def as_tensor(value: Any) -> Tensor:
    """A tensor; constants keep their type, as sizes and indices are integers."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _ints(value: Any) -> list[int]:
    return as_tensor(value).reshape(-1).int().tolist()


def _unary(function: Callable[..., Tensor], *names: str) -> Callable[[Inputs], Tensor]:
    """An operation of ``x``, and of numbers with these names."""
    return lambda inputs: function(as_tensor(inputs['x']), *(float(inputs[name]) for name in names))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda inputs: function(as_tensor(inputs['x']), as_tensor(inputs['y']))


def _refuse(operation: str, inputs: Inputs, **defaults: Any) -> None:
    """Refuse settings that are not implemented."""
    for name, value in defaults.items():
        if name in inputs and np.any(np.asarray(inputs[name]) != value):
            raise ExportError(f'the package cannot be checked: {operation} with {name} is not supported')


def _padded(inputs: Inputs, kernel: list[int], strides: list[int], dilations: list[int], value: float = 0.) -> Tensor:
    x, kind = inputs['x'], inputs['pad_type']
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
    x = _padded(inputs, list(weight.shape[2:]), strides, dilations)
    return F.conv2d(x, weight, inputs.get('bias'), strides, 0, dilations, int(inputs.get('groups', 1)))


def _conv_transpose(inputs: Inputs) -> Tensor:
    if inputs.get('pad_type', 'valid') != 'valid':
        _refuse('conv_transpose', inputs, pad=0)
    return F.conv_transpose2d(inputs['x'], inputs['weight'], inputs.get('bias'), _ints(inputs.get('strides', (1, 1))),
                              groups=int(inputs.get('groups', 1)), dilation=_ints(inputs.get('dilations', (1, 1))))


def _max_pool(inputs: Inputs) -> Tensor:
    kernel, strides = _ints(inputs['kernel_sizes']), _ints(inputs['strides'])
    x = _padded(inputs, kernel, strides, [1, 1], -math.inf)
    return F.max_pool2d(x, kernel, strides, ceil_mode=bool(inputs.get('ceil_mode', False)))


def _avg_pool(inputs: Inputs) -> Tensor:
    kernel, strides = _ints(inputs['kernel_sizes']), _ints(inputs['strides'])
    if not inputs.get('exclude_padding_from_average', False):
        return F.avg_pool2d(_padded(inputs, kernel, strides, [1, 1]), kernel, strides)
    counted = F.avg_pool2d(_padded({**inputs, 'x': torch.ones_like(inputs['x'])}, kernel, strides, [1, 1]), kernel,
                           strides)
    return F.avg_pool2d(_padded(inputs, kernel, strides, [1, 1]), kernel, strides) / counted


def _gelu(inputs: Inputs) -> Tensor:
    mode = inputs.get('mode', 'EXACT')
    if mode == 'SIGMOID_APPROXIMATION':
        return inputs['x'] * torch.sigmoid(1.702 * inputs['x'])
    return F.gelu(inputs['x'], approximate='none' if mode == 'EXACT' else 'tanh')


def _upsample(inputs: Inputs, mode: str) -> Tensor:
    align = bool(inputs.get('align_corners', True)) if mode == 'bilinear' else None
    if not align:
        _refuse('upsample_bilinear', inputs, half_pixel_centers=True)
    factors = [float(inputs['scale_factor_height']), float(inputs['scale_factor_width'])]
    return F.interpolate(inputs['x'], scale_factor=factors, mode=mode, align_corners=align)


def _resize_bilinear(inputs: Inputs) -> Tensor:
    mode = inputs.get('sampling_mode', 'DEFAULT')
    if mode not in ('STRICT_ALIGN_CORNERS', 'ALIGN_CORNERS', 'UNALIGN_CORNERS'):
        raise ExportError(f'the package cannot be checked: resize_bilinear with {mode} is not supported')
    size = [int(inputs['target_size_height']), int(inputs['target_size_width'])]
    return F.interpolate(inputs['x'], size, mode='bilinear', align_corners=mode != 'UNALIGN_CORNERS')


def _squeeze(inputs: Inputs) -> Tensor:
    return inputs['x'].squeeze(tuple(_ints(inputs['axes'])))


def _expand_dims(inputs: Inputs) -> Tensor:
    x, axes = as_tensor(inputs['x']), _ints(inputs['axes'])
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _reshape(inputs: Inputs) -> Tensor:
    x = as_tensor(inputs['x'])
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(_ints(inputs['shape']))])


def _matmul(inputs: Inputs) -> Tensor:
    x, y = as_tensor(inputs['x']), as_tensor(inputs['y'])
    x = x.transpose(-1, -2) if inputs.get('transpose_x', False) else x
    return x @ (y.transpose(-1, -2) if inputs.get('transpose_y', False) else y)


def _gather(inputs: Inputs) -> Tensor:
    _refuse('gather', inputs, batch_dims=0)
    x, indices, axis = as_tensor(inputs['x']), as_tensor(inputs['indices']), int(inputs.get('axis', 0))
    axis %= x.ndim
    flat = indices.reshape(-1).long() % x.shape[axis]
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]])


def _gather_nd(inputs: Inputs) -> Tensor:
    _refuse('gather_nd', inputs, batch_dims=0)
    return as_tensor(inputs['x'])[as_tensor(inputs['indices']).long().unbind(-1)]


def _slice_by_index(inputs: Inputs) -> Tensor:
    x = as_tensor(inputs['x'])
    begin, end = _ints(inputs['begin']), _ints(inputs['end'])
    stride = [1] * x.ndim if inputs.get('stride') is None else _ints(inputs['stride'])
    if min(stride) < 1:
        raise ExportError('slice_by_index with a negative stride is not supported')
    masks = (inputs.get(f'{name}_mask') for name in ('begin', 'end', 'squeeze'))
    open_begin, open_end, squeezed = ([False] * x.ndim if mask is None else np.asarray(mask).tolist() for mask in masks)
    return x[tuple(begin[i] if squeezed[i] else
                   slice(None if open_begin[i] else begin[i], None if open_end[i] else end[i], stride[i])
                   for i in range(x.ndim))]


def _split(inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis, sizes = as_tensor(inputs['x']), int(inputs['axis']), inputs.get('split_sizes')
    return x.split(x.shape[axis] // int(inputs['num_splits']) if sizes is None else _ints(sizes), axis)


def _layer_norm(inputs: Inputs) -> Tensor:
    x, axes = inputs['x'], _ints(inputs['axes'])
    if [axis % x.ndim for axis in axes] != list(range(x.ndim - len(axes), x.ndim)):
        raise ExportError('layer_norm is supported over the last axes only')
    return F.layer_norm(x, x.shape[-len(axes):], inputs.get('gamma'), inputs.get('beta'),
                        float(inputs.get('epsilon', 1e-5)))


def _reduce(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    def reduce(inputs: Inputs) -> Tensor:
        x, axes = inputs['x'], inputs.get('axes')
        return function(x, list(range(x.ndim)) if axes is None else _ints(axes), bool(inputs.get('keep_dims', False)))
    return reduce


def _cumsum(inputs: Inputs) -> Tensor:
    _refuse('cumsum', inputs, exclusive=False, reverse=False)
    return inputs['x'].cumsum(int(inputs.get('axis', 0)))


#: Operation -> its implementation: those of backbones, necks, heads, SAM's decoder, and the selection of boxes.
OPERATIONS: dict[str, Callable[[Inputs], Tensor | tuple[Tensor, ...]]] = {
    'abs': _unary(torch.abs),
    'add': _binary(torch.add),
    'avg_pool': _avg_pool,
    'band_part': lambda inputs: as_tensor(inputs['x']).triu() if int(inputs['lower']) == 0 else
    as_tensor(inputs['x']).tril(int(inputs['upper'])),
    'cast': _unary(lambda x: x),  # MILProgram.run() converts every result to the type that the program gives it
    'clip': _unary(torch.clamp, 'alpha', 'beta'),
    'concat': lambda inputs: torch.cat(  # of numbers, too
        [torch.atleast_1d(as_tensor(value)) for value in inputs['values']], int(inputs['axis'])),
    'conv': _conv,
    'conv_transpose': _conv_transpose,
    'cos': _unary(torch.cos),
    'cumsum': _cumsum,
    'equal': _binary(torch.eq),
    'exp': _unary(torch.exp),
    'expand_dims': _expand_dims,
    'fill_like': lambda inputs: torch.full_like(as_tensor(inputs['ref_tensor']), inputs['value'].item()),
    'floor': _unary(torch.floor),
    'floor_div': _binary(partial(torch.div, rounding_mode='floor')),
    'gather': _gather,
    'gather_nd': _gather_nd,
    'gelu': _gelu,
    'greater': _binary(torch.gt),
    'greater_equal': _binary(torch.ge),
    'inverse': lambda inputs: 1 / (inputs['x'] + float(inputs.get('epsilon', 1e-4))),
    'layer_norm': _layer_norm,
    'leaky_relu': _unary(F.leaky_relu, 'alpha'),
    'less': _binary(torch.lt),
    'linear': lambda inputs: F.linear(inputs['x'], inputs['weight'], inputs.get('bias')),
    'logical_and': _binary(torch.logical_and),
    'matmul': _matmul,
    'max_pool': _max_pool,
    'maximum': _binary(torch.maximum),
    'minimum': _binary(torch.minimum),
    'mod': _binary(torch.remainder),
    'mul': _binary(torch.mul),
    'not_equal': _binary(torch.ne),
    'pow': _binary(torch.pow),
    'range_1d': lambda inputs: torch.arange(*(as_tensor(inputs[name]).item() for name in ('start', 'end', 'step'))),
    'real_div': _binary(torch.div),
    'reduce_argmax': lambda inputs: inputs['x'].argmax(int(inputs['axis']), bool(inputs['keep_dims'])),
    'reduce_max': _reduce(torch.amax),
    'reduce_mean': _reduce(torch.mean),
    'reduce_min': _reduce(torch.amin),
    'relu': _unary(F.relu),
    'relu6': _unary(F.relu6),
    'reshape': _reshape,
    'resize_bilinear': _resize_bilinear,
    'select': lambda inputs: torch.where(*(as_tensor(inputs[name]) for name in ('cond', 'a', 'b'))),
    'shape': lambda inputs: torch.tensor(inputs['x'].shape, dtype=torch.int32),
    'sigmoid': _unary(torch.sigmoid),
    'sigmoid_hard': lambda inputs: (inputs['x'] * float(inputs['alpha']) + float(inputs['beta'])).clamp(0, 1),
    'silu': _unary(F.silu),
    'sin': _unary(torch.sin),
    'slice_by_index': _slice_by_index,
    'softmax': lambda inputs: inputs['x'].softmax(int(inputs.get('axis', -1))),
    'split': _split,
    'sqrt': _unary(torch.sqrt),
    'squeeze': _squeeze,
    'stack': lambda inputs: torch.stack([as_tensor(value) for value in inputs['values']], int(inputs['axis'])),
    'sub': _binary(torch.sub),
    'tile': lambda inputs: as_tensor(inputs['x']).repeat(_ints(inputs['reps'])),
    'topk': lambda inputs: tuple(inputs['x'].topk(int(inputs['k']), int(inputs.get('axis', -1)),
                                                  not inputs.get('ascending', False))),
    'transpose': lambda inputs: inputs['x'].permute(_ints(inputs['perm'])),
    'upsample_bilinear': partial(_upsample, mode='bilinear'),
    'upsample_nearest_neighbor': partial(_upsample, mode='nearest'),
}
