"""The operators beside mmcv's compiled ones, where those are: ``make check-operators``."""
from collections import defaultdict
from importlib import import_module

import pytest
import torch
from operator_cases import CASES, operators_of, ops
from test_operators import SCORES, SETS, converted, run

from repvit_mm.ops import EXTENSION, extension, is_provided

if is_provided():
    pytest.skip('needs a compiled mmcv: make check-operators', allow_module_level=True)

#: Compiled for CUDA alone.
ON_GPUS = ('carafe', 'deform_roi_pool', 'masked_conv', 'ms_deform_attn', 'sigmoid_focal_loss')
DEVICES = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]


@pytest.fixture(scope='module')
def largest():
    """Operator -> largest difference of results and of gradients; printed in the end."""
    found = defaultdict(lambda: [0., None])
    yield found
    print(f'\n\n{"operator":24}{"result":>10}{"gradients":>12}')
    for name, (result, gradients) in sorted(found.items()):
        print(f'{name:24}{result:10.1e}' + ('' if gradients is None else f'{gradients:12.1e}'))


def both(function):
    """Results of a function with the compiled operators, and with ours."""
    results = []
    for operators in (import_module(EXTENSION), extension):
        with operators_of(operators):
            results.append(function())
    return results


def difference(one, other):
    """The largest difference, for values of the order of 1 absolute, for larger ones relative."""
    one, other = one.double(), other.double()
    return ((one - other).abs() / other.abs().clamp(min=1)).max().item() if other.numel() else 0.


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize(('operator', 'row'), [(operator, row) for operator, rows in CASES.items() for row in rows])
def test_operator(operator, row, size, dtype, device, largest):
    if device == 'cpu' and operator in ON_GPUS:
        pytest.skip('mmcv has it for CUDA alone')
    if operator == 'box_iou_rotated' and dtype == torch.float64:
        pytest.skip('mmcv has it in single precision alone')
    torch.manual_seed(size)
    case = CASES[operator][row]
    tensors = [x.to(device) for x in converted(case.tensors(size), dtype)]
    expected, found = both(lambda: run(case.call, tensors, case.gradients))
    differences = [difference(one, other) for one, other in zip(found, expected, strict=True)]
    assert max(differences) < (2e-5 if dtype == torch.float32 else 1e-12)
    if dtype == torch.float32:
        so_far = largest[operator]
        so_far[0] = max(so_far[0], differences[0])
        if case.gradients:
            so_far[1] = max(so_far[1] or 0., *differences[1:])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.3, 0.6, 0.7])
@pytest.mark.parametrize('count', [1, 30, 3000])
@pytest.mark.parametrize('kind', ['crowd', 'whole_numbers'])
def test_nms(kind, count, threshold, offset, device, largest):
    torch.manual_seed(count)
    where = torch.rand(count, 4, device=device) * 60
    where[:, 2:] += where[:, :2]
    if kind == 'whole_numbers':
        where = where.round()
    scores = torch.randperm(count, device=device) / count
    (_, expected), (_, found) = both(lambda: ops.nms(where, scores, threshold, offset))
    assert found.tolist() == expected.tolist()
    largest['nms'][0] = 0.


@pytest.mark.parametrize('ranking', SCORES)
@pytest.mark.parametrize('kind', SETS)
@pytest.mark.parametrize('function', [
    pytest.param(lambda boxes, scores: ops.nms(boxes, scores, 0.5), id='nms'),
    pytest.param(lambda boxes, scores: ops.nms(boxes, scores, 0.5, 1), id='nms-offset'),
    pytest.param(lambda boxes, scores: ops.nms(boxes, scores, 0.5, score_threshold=0.3, max_num=3), id='nms-best'),
    *(pytest.param(lambda boxes, scores, method=method, offset=offset: ops.soft_nms(
        boxes, scores, 0.3, 0.5, 0.05, method, offset), id=f'softnms-{method}-{offset}')
      for method in ('naive', 'linear', 'gaussian') for offset in (0, 1)),
    pytest.param(lambda boxes, scores: (None, torch.cat([torch.zeros(0), *ops.nms_match(
        torch.cat([boxes, scores[:, None]], 1), 0.5)])), id='nms_match')])
def test_suppression(function, kind, ranking, request, largest):
    """On sets at the edge."""
    name, *variant = request.node.callspec.id.split('-')[:3]
    torch.manual_seed(0)
    where = SETS[kind]().float()
    scores = SCORES[ranking](len(where)).float()
    if name in ('nms', 'nms_match') and ranking == 'ties' and len(where) > 16:
        pytest.skip('mmcv leaves equal scores to a sort that is stable for up to 16 only')
    if variant == ['gaussian', '0'] and kind in ('points', 'whole_numbers'):
        pytest.skip("mmcv's scores become NaN where points overlap")
    (expected, order), (found, ours) = both(lambda: function(where, scores))
    assert ours.tolist() == order.tolist()
    if found is not None:
        gap = difference(found, expected)
        assert gap < 1e-6
        largest[name][0] = max(largest[name][0], gap)
    else:
        largest[name][0] = 0.
