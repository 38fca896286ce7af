"""The operations of a whole detector in Core ML, for the evaluator of :mod:`repvit_mm.export.mil_evaluator`."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ExportError
from .mil_evaluator import Inputs
from .sam_operations import DECODER_OPERATIONS, as_tensor, binary, ints, unary


def _topk(inputs: Inputs) -> tuple[Tensor, Tensor]:
    return tuple(inputs['x'].topk(int(inputs['k']), int(inputs.get('axis', -1)), not inputs.get('ascending', False)))


def _gather_nd(inputs: Inputs) -> Tensor:
    if int(inputs.get('batch_dims', 0)):
        raise ExportError('gather_nd with batch_dims is not supported')
    return as_tensor(inputs['x'])[as_tensor(inputs['indices']).long().unbind(-1)]


def _split(inputs: Inputs) -> tuple[Tensor, ...]:
    x, axis, sizes = as_tensor(inputs['x']), int(inputs['axis']), inputs.get('split_sizes')
    return x.split(x.shape[axis] // int(inputs['num_splits']) if sizes is None else ints(sizes), axis)


def _avg_pool(inputs: Inputs) -> Tensor:
    if inputs.get('pad_type', 'valid') != 'valid' and any(ints(inputs.get('pad', 0))):
        raise ExportError('avg_pool with padding is not supported')
    return F.avg_pool2d(inputs['x'], ints(inputs['kernel_sizes']), ints(inputs['strides']))


def _cumsum(inputs: Inputs) -> Tensor:
    if inputs.get('exclusive', False) or inputs.get('reverse', False):
        raise ExportError('cumsum is supported from the first entry on, and with each entry')
    return inputs['x'].cumsum(int(inputs.get('axis', 0)))


#: Those of RepViT and SAM's decoder, with those that the selection of boxes adds.
DETECTOR_OPERATIONS: dict[str, Callable[[Inputs], Tensor | tuple[Tensor, ...]]] = {
    **DECODER_OPERATIONS,
    'avg_pool': _avg_pool,
    'cumsum': _cumsum,
    'band_part': lambda inputs: as_tensor(inputs['x']).triu() if int(inputs['lower']) == 0 else
    as_tensor(inputs['x']).tril(int(inputs['upper'])),
    'exp': unary(torch.exp),
    'fill_like': lambda inputs: torch.full_like(as_tensor(inputs['ref_tensor']), inputs['value'].item()),
    'floor_div': binary(lambda x, y: torch.div(x, y, rounding_mode='floor')),
    'gather_nd': _gather_nd,
    'greater': binary(torch.gt),
    'greater_equal': binary(torch.ge),
    'less': binary(torch.lt),
    'logical_and': binary(torch.logical_and),
    'maximum': binary(torch.maximum),
    'mod': binary(torch.remainder),
    'reduce_min': lambda inputs: inputs['x'].amin(ints(inputs['axes']), bool(inputs.get('keep_dims', False))),
    'split': _split,
    'topk': _topk,
}
