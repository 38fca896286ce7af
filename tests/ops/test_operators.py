"""mmcv's operators on torchvision's, against their definitions: results and gradients, in every precision."""
import multiprocessing
import resource
from pathlib import Path

import operator_oracles as oracles
import pytest
import torch
from operator_cases import CASES, boxes, operators_of, ops, rotated

from repvit_mm.errors import UserError
from repvit_mm.ops import extension

ROWS = [pytest.param(case, id=f'{name}-{row}') for name, rows in CASES.items() for row, case in rows.items()]
@pytest.fixture(autouse=True)
def provided():
    """Test these operators, beside a compiled mmcv too."""
    torch.manual_seed(0)
    with operators_of(extension):
        yield


def run(function, tensors, gradients):
    """The result of a function, and its gradients for the first tensors."""
    tensors = [x.clone().requires_grad_(i < gradients) for i, x in enumerate(tensors)]
    result = function(*tensors)
    if not gradients:
        return [result]
    slope = (torch.arange(result.numel(), device=result.device) % 5 - 1.5).view(result.shape)  # in every precision
    return [result, *torch.autograd.grad(result, tensors[:gradients], slope.to(result.dtype))]


def converted(tensors, dtype, memory_format=torch.contiguous_format):
    return [x.to(dtype, memory_format=memory_format if x.ndim == 4 else torch.preserve_format)
            if x.is_floating_point() else x for x in tensors]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', ROWS)
def test_operator_is_its_definition(case, dtype):
    """Half precision loses what the rounding of results loses, and nothing in between."""
    tensors = converted(case.tensors(1), dtype)
    found = run(case.call, tensors, case.gradients)
    expected = run(case.oracle, converted(tensors, torch.float64), case.gradients)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(one.double(), other, rtol=100 * eps if dtype.itemsize > 2 else eps,
                                   atol=max(100 * torch.finfo(torch.float32).eps if dtype != torch.float64 else 1e-13,
                                            torch.finfo(dtype).smallest_normal))


@pytest.mark.parametrize('case', [row for row in ROWS if not row.id.startswith('masked_conv')])  # mmcv refuses them
def test_channels_last(case):
    tensors = case.tensors(1)
    found = run(case.call, converted(tensors, torch.float32, torch.channels_last), case.gradients)
    expected = run(case.call, converted(tensors, torch.float32), case.gradients)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('case', [
    CASES['roi_align']['none'], CASES['carafe']['plain'], CASES['psamask']['collect_5x5']])
def test_batch_of_nothing(case):
    tensors = case.tensors(1)
    images = len(tensors[0])
    empty = [x[:0] if x.ndim == 4 and len(x) == images else x for x in tensors]
    found = run(case.call, empty, case.gradients)
    assert found[0].numel() == 0
    assert [x.shape for x in found[1:]] == [x.shape for x in empty[:case.gradients]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('operator', ['roi_align', 'modulated_deform_conv', 'ms_deform_attn', 'carafe',
                                      'sigmoid_focal_loss'])
def test_autocast_changes_nothing(operator, dtype):
    case = next(iter(CASES[operator].values()))
    tensors = converted(case.tensors(1), torch.float32)
    expected = run(case.call, tensors, case.gradients)
    with torch.autocast('cpu', dtype):
        found = run(case.call, tensors, case.gradients)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_focal_loss_of_a_sure_network_is_finite():
    logits = torch.tensor([[200., -200.], [-200., 200.]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2., 0.25, None, 'none')
    torch.testing.assert_close(loss, torch.tensor([[0., 0.], [50., 150.]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0., 0.], [-0.25, 0.75]]))


@pytest.mark.parametrize('region', [[8, 2, 3, 9], [2, 9, 8, 3], [8, 9, 2, 3]])
def test_a_region_that_ends_before_its_start_pools_to_zero(region):
    """As in mmcv on a GPU; learned proposals of Sparse R-CNN can become such regions."""
    maps, rois = torch.rand(1, 2, 6, 6, requires_grad=True), torch.tensor([[0., *region], [0, 2, 3, 8, 9]])
    pooled = ops.roi_align(maps, rois, 2, 1., 0, 'avg', True)
    pooled[0].sum().backward()
    assert not pooled[0].any() and pooled[1].all() and not maps.grad.any()


def test_max_pooling_of_roi_align_suggests_average_pooling():
    with pytest.raises(UserError, match="pool_mode='max'.*'avg'"):
        ops.roi_align(torch.rand(1, 1, 4, 4), torch.rand(1, 5), 2, 1., 0, 'max', True)


def test_operator_that_is_not_there_is_named():
    with pytest.raises(UserError, match='no operator nms_quadri: install a compiled mmcv'):
        ops.nms_quadri(torch.rand(2, 8), torch.rand(2), 0.5)
    with pytest.raises(UserError, match='no operator roi_pool_forward: install a compiled mmcv'):
        ops.roi_pool(torch.rand(1, 1, 4, 4), torch.rand(1, 5), 2)
    assert not hasattr(extension, '__no_such_attribute__')


def test_offsets_of_a_finer_level():
    """DyHead convolves each level with the offsets of its neighbour, which has four times the pixels."""
    from mmdet.models.necks import DyHead
    levels = [torch.rand(1, 16, 16, 16), torch.rand(1, 16, 8, 8)]
    assert [x.shape for x in DyHead(16, 16, num_blocks=1)(levels)] == [x.shape for x in levels]


@pytest.mark.parametrize('modulated', [False, True])
def test_offsets_have_no_gradient_at_minus_one(modulated):
    """As mmcv's own kernels, whose derivative is that to the right and below, and 0 at -1 and beyond: at the border of
    a convolution whose offsets start at 0."""
    x, weight = torch.tensor([[[[1., 2], [3, 4]]]]), torch.ones(1, 1, 3, 3)
    offset = torch.zeros(1, 18, 2, 2, requires_grad=True)
    out = (ops.modulated_deform_conv2d(x, offset, torch.ones(1, 9, 2, 2), weight, None, 1, 1) if modulated
           else ops.deform_conv2d(x, offset, weight, 1, 1))
    out.sum().backward()
    slopes = {(0, 0): (2, 1), (0, 1): (2, -2), (1, 0): (-3, 1), (1, 1): (-4, -4)}  # pixel -> along y and x
    expected = [slopes.get((row + tap // 3 - 1, column + tap % 3 - 1), (0, 0))[axis]
                for tap in range(9) for axis in range(2) for row in range(2) for column in range(2)]
    assert offset.grad.flatten().tolist() == expected


#: Operator -> which of its tensors are coordinates.
COORDINATES = {
    'roi_align': [1], 'roi_align_rotated': [1], 'deform_roi_pool': [1, 2], 'deform_conv': [1],
    'modulated_deform_conv': [1], 'ms_deform_attn': [1], 'bbox_overlaps': [0, 1], 'box_iou_rotated': [0, 1]}
SUPPRESSION = {
    'nms': lambda boxes, scores: ops.nms(boxes, scores, 0.5),
    'soft_nms': lambda boxes, scores: ops.soft_nms(boxes, scores, 0.5),
    'nms_match': lambda boxes, scores: ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)[0],
    'nms_rotated': lambda boxes, scores: ops.nms_rotated(torch.cat([boxes, boxes[:, :1]], 1), scores, 0.5)}
EXTREMES = [torch.nan, torch.inf, -torch.inf, 1e9, -1e9, 3e38, -3e38]


def diverge(path):
    """Call every operator with such coordinates, and note those that this process survives with finite results."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 ** 33, used + 2 ** 33))
    torch.set_num_threads(1)
    with operators_of(extension), path.open('w') as file:
        for operator in (*COORDINATES, *SUPPRESSION):
            for value in EXTREMES:
                call_with(operator, value)
            print(operator, file=file, flush=True)


def call_with(operator, value):
    if operator in SUPPRESSION:
        where = boxes(8, 20).float()
        where[::3, 1:] = value
        SUPPRESSION[operator](where, torch.rand(8))
        return
    for case in CASES[operator].values():
        for changed in COORDINATES[operator]:
            tensors = converted(case.tensors(1), torch.float32)
            if changed < len(tensors) and tensors[changed].numel():
                first = changed == 1 and 'roi' in operator  # the image of a region is none
                tensors[changed][::2, first:] = value
                results = run(case.call, tensors, case.gradients)
                assert 'iou' in operator or 'overlaps' in operator or all(x.isfinite().all() for x in results)


@pytest.mark.slow
def test_coordinates_of_a_diverged_network_end_no_process(tmp_path):
    """Nor do they fill the memory or reach the other samples; in a process of its own, as it may end."""
    process = multiprocessing.get_context('spawn').Process(target=diverge, args=(tmp_path / 'survived',))
    process.start()
    process.join(300)
    process.kill()
    assert (tmp_path / 'survived').read_text().split() == [*COORDINATES, *SUPPRESSION]


# Suppression

SETS = {
    'none': lambda: torch.zeros(0, 4),
    'one': lambda: boxes(1, 10),
    'crowd': lambda: boxes(60, 30),
    'whole_numbers': lambda: boxes(60, 12).round(),
    'one_place': lambda: torch.tensor([[0., 0, 4, 4]]).repeat(7, 1),
    'points': lambda: torch.tensor([[1., 1, 1, 1]]).repeat(3, 1),
    'outside': lambda: boxes(20, 30) - 100,
}
SCORES = {'all_different': lambda n: torch.randperm(n) / max(n, 1), 'ties': lambda n: torch.randint(1, 4, (n, )) / 4}


def box_sets(function):
    for parameter in (pytest.mark.parametrize('kind', SETS), pytest.mark.parametrize('ranking', SCORES)):
        function = parameter(function)
    return function


def make(kind, ranking, dtype=torch.float32):
    found = SETS[kind]().to(dtype)
    return found, SCORES[ranking](len(found)).to(dtype)


@box_sets
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nms(kind, ranking, offset, dtype):
    where, scores = make(kind, ranking, dtype)
    found, indices = ops.nms(where, scores, 0.45, offset)
    assert indices.tolist() == oracles.nms(where.tolist(), scores.tolist(), 0.45, offset)
    torch.testing.assert_close(found, torch.cat([where, scores[:, None]], 1)[indices], rtol=0, atol=0)


@pytest.mark.parametrize('clockwise', [True, False])
@pytest.mark.parametrize('labelled', [True, False])
@pytest.mark.parametrize('count', [0, 1, 40])
def test_nms_rotated(count, labelled, clockwise):
    where, scores = rotated(count, 20), torch.randperm(count).double() / max(count, 1)
    labels = torch.arange(count) % 2 if labelled else None
    found, indices = ops.nms_rotated(where, scores, 0.2, labels, clockwise)
    expected = oracles.nms(where.tolist(), scores.tolist(), 0.2, labels=labels,
                           overlap=lambda a, b, _: oracles.iou_rotated(a, b, clockwise=clockwise))
    assert expected == ([] if indices is None else indices.tolist())
    assert found.tolist() == torch.cat([where, scores[:, None]], 1)[expected].tolist()


@pytest.mark.parametrize('threshold', [0.2, 0.4, 0.6, 0.7, 0.8])
def test_nms_keeps_boxes_whose_overlap_equals_the_threshold(threshold):
    """As mmcv's, which compares in float32, on boxes that overlap by 2, 4, 6, 7 and 8 in 10."""
    where = torch.tensor([[0., 0, 10, 1], [0, 0, threshold * 10, 1]])
    assert ops.nms(where, torch.tensor([.9, .8]), threshold)[1].tolist() == [0, 1]
    assert ops.nms(where, torch.tensor([.9, .8]), threshold - 1e-6)[1].tolist() == [0]


@pytest.mark.parametrize('kind', SETS)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(kind, offset, method):
    where, scores = make(kind, 'all_different', torch.float64)
    found, indices = ops.soft_nms(where, scores, 0.4, 0.5, 0.05, method, offset)
    expected = oracles.soft_nms(where.tolist(), scores.tolist(), 0.4, 0.5, 0.05, method, offset)
    torch.testing.assert_close(found[:, 4].tolist(), [score for _, score in expected])
    torch.testing.assert_close(found[:, :4], where[indices])
    assert indices.tolist() == [i for i, _ in expected]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_soft_nms_in_half_precision(dtype):
    where, scores = make('crowd', 'all_different', dtype)
    found, indices = ops.soft_nms(where, scores)
    expected, same = ops.soft_nms(where.float(), scores.float())
    assert indices.tolist() == same.tolist() and found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))


@box_sets
def test_nms_match(kind, ranking):
    where, scores = make(kind, ranking)
    found = ops.nms_match(torch.cat([where, scores[:, None]], 1), 0.4)
    assert [group.tolist() for group in found] == oracles.nms_match(where.tolist(), scores.tolist(), 0.4)


@pytest.mark.parametrize('nms', [dict(type='nms', iou_threshold=0.5), dict(type='soft_nms', iou_threshold=0.5),
                                 dict(type='nms', iou_threshold=0.5, split_thr=10)])
def test_classes_do_not_suppress_each_other(nms):
    where, scores = make('crowd', 'all_different')
    labels = torch.arange(len(where)) % 3
    _, indices = ops.batched_nms(where, scores, labels, nms)
    for label in range(3):
        one = (labels == label).nonzero()[:, 0]
        alone = ops.batched_nms(where[one], scores[one], torch.zeros(len(one)), nms)[1]
        assert one[alone].tolist() == [i for i in indices.tolist() if labels[i] == label]
