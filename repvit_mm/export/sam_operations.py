"""The operations of SAM's decoder in Core ML, for the evaluator of :mod:`repvit_mm.export.mil_evaluator`."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .mil_evaluator import OPERATIONS, Inputs


def as_tensor(value: Any) -> Tensor:
    """Constants keep their type: sizes and indices are integers."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def ints(value: Any) -> list[int]:
    """Sizes, axes and the like."""
    return as_tensor(value).reshape(-1).tolist()


def _flags(value: Any, rank: int) -> list[bool]:
    return [False] * rank if value is None else [bool(flag) for flag in np.asarray(value)]


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    """An operation of ``x`` and ``y``."""
    return lambda inputs: function(as_tensor(inputs['x']), as_tensor(inputs['y']))


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    """An operation of ``x``."""
    return lambda inputs: function(as_tensor(inputs['x']))


def _matmul(inputs: Inputs) -> Tensor:
    x, y = as_tensor(inputs['x']), as_tensor(inputs['y'])
    x = x.transpose(-1, -2) if inputs.get('transpose_x', False) else x
    return x @ (y.transpose(-1, -2) if inputs.get('transpose_y', False) else y)


def _gather(inputs: Inputs) -> Tensor:
    x, indices, axis = as_tensor(inputs['x']), as_tensor(inputs['indices']), int(inputs.get('axis', 0))
    if int(inputs.get('batch_dims', 0)):
        raise ExportError('gather with batch_dims is not supported')
    axis %= x.ndim
    flat = indices.reshape(-1).long() % x.shape[axis]
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]])


def _slice_by_index(inputs: Inputs) -> Tensor:
    x = as_tensor(inputs['x'])
    begin, end = ints(inputs['begin']), ints(inputs['end'])
    stride = [1] * x.ndim if inputs.get('stride') is None else ints(inputs['stride'])
    if min(stride) < 1:
        raise ExportError('slice_by_index with a negative stride is not supported')
    open_begin, open_end, squeezed = (_flags(inputs.get(f'{name}_mask'), x.ndim)
                                      for name in ('begin', 'end', 'squeeze'))
    return x[tuple(begin[i] if squeezed[i] else
                   slice(None if open_begin[i] else begin[i], None if open_end[i] else end[i], stride[i])
                   for i in range(x.ndim))]


def _expand_dims(inputs: Inputs) -> Tensor:
    x, axes = as_tensor(inputs['x']), ints(inputs['axes'])
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _reshape(inputs: Inputs) -> Tensor:
    x = as_tensor(inputs['x'])
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(ints(inputs['shape']))])


def _layer_norm(inputs: Inputs) -> Tensor:
    x, axes = inputs['x'], ints(inputs['axes'])
    if [axis % x.ndim for axis in axes] != list(range(x.ndim - len(axes), x.ndim)):
        raise ExportError('layer_norm is supported over the last axes only')
    return F.layer_norm(x, x.shape[-len(axes):], inputs.get('gamma'), inputs.get('beta'),
                        float(inputs.get('epsilon', 1e-5)))


def _conv_transpose(inputs: Inputs) -> Tensor:
    if inputs.get('pad_type', 'valid') != 'valid' and any(ints(inputs.get('pad', 0))):
        raise ExportError('conv_transpose with padding is not supported')
    return F.conv_transpose2d(inputs['x'], inputs['weight'], inputs.get('bias'), ints(inputs.get('strides', (1, 1))),
                              groups=int(inputs.get('groups', 1)), dilation=ints(inputs.get('dilations', (1, 1))))


def _range(inputs: Inputs) -> Tensor:
    start, end, step = (as_tensor(inputs[name]).item() for name in ('start', 'end', 'step'))
    return torch.arange(start, end, step)


#: The operations of RepViT, with those that the decoder adds or needs in a more general form.
DECODER_OPERATIONS: dict[str, Callable[[Inputs], Tensor]] = {
    **OPERATIONS,
    'abs': unary(torch.abs),
    'concat': lambda inputs: torch.cat(  # of numbers, too
        [torch.atleast_1d(as_tensor(value)) for value in inputs['values']], int(inputs['axis'])),
    'conv_transpose': _conv_transpose,
    'cos': unary(torch.cos),
    'equal': binary(torch.eq),
    'expand_dims': _expand_dims,
    'floor': unary(torch.floor),
    'gather': _gather,
    'inverse': lambda inputs: 1 / (inputs['x'] + float(inputs.get('epsilon', 1e-4))),
    'layer_norm': _layer_norm,
    'matmul': _matmul,
    'minimum': binary(torch.minimum),
    'not_equal': binary(torch.ne),
    'range_1d': _range,
    'reduce_max': lambda inputs: inputs['x'].amax(
        ints(inputs['axes']) if inputs.get('axes') is not None else list(range(inputs['x'].ndim)),
        bool(inputs.get('keep_dims', False))),
    'reshape': _reshape,
    'select': lambda inputs: torch.where(*(as_tensor(inputs[name]) for name in ('cond', 'a', 'b'))),
    'shape': lambda inputs: torch.tensor(inputs['x'].shape, dtype=torch.int32),
    'sin': unary(torch.sin),
    'slice_by_index': _slice_by_index,
    'stack': lambda inputs: torch.stack([as_tensor(value) for value in inputs['values']], int(inputs['axis'])),
    'tile': lambda inputs: as_tensor(inputs['x']).repeat(ints(inputs['reps'])),
    'transpose': lambda inputs: inputs['x'].permute(ints(inputs['perm'])),
}
