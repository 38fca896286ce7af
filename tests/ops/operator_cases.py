"""Calls of the operators through ``mmcv.ops``, each with the tensors that it takes and its definition."""
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import operator_oracles as oracles
import torch
from torch import Tensor

# isort: split
import repvit_mm  # noqa: F401, before mmcv.ops: it provides the operators

# isort: split
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction


class Case(NamedTuple):
    """One way to call an operator.

    Attributes:
        call: The operator of mmcv: takes the tensors, returns one.
        oracle: Its definition, with the same arguments.
        tensors: Makes the tensors for a size from 1 (small enough for the definition) upwards.
        gradients: How many of them, the first ones, have a gradient.
    """

    call: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    tensors: Callable[[int], list[Tensor]]
    gradients: int = 1


@contextmanager
def operators_of(extension: Any):
    """mmcv's functions call this extension, whatever they would have called."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith('mmcv.ops.') and hasattr(m, 'ext_module')]
    before = [m.ext_module for m in modules]
    try:
        for module in modules:
            module.ext_module = extension
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.ext_module = own


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def boxes(count: int, size: float) -> Tensor:
    """Boxes that overlap each other, some of them reaching out of an image of this size."""
    start = torch.rand(count, 2, dtype=torch.float64) * size - size / 10
    return torch.cat([start, start + torch.rand(count, 2, dtype=torch.float64) * size * 0.6], 1)


def regions(count: int, maps: int, size: float) -> Tensor:
    index = torch.randint(maps, (count, 1)).double()
    return torch.cat([index, boxes(count, size)], dim=1)


def at(regions_of: list[list[float]]) -> Tensor:
    return torch.tensor(regions_of, dtype=torch.float64).reshape(-1, 5)


# Regions; the map is 6 x 7 pixels times the size, at half of the image's scale.

def maps_and(rois: Callable[[int], Tensor], images: int = 2) -> Callable[[int], list[Tensor]]:
    return lambda size: [random(images, 3 * size, 6 * size, 7 * size), rois(size)]


def align(ratio: int, aligned: bool, rois: Callable[[int], Tensor], images: int = 2) -> Case:
    arguments = (2, 0.5, ratio)
    return Case(lambda x, r: ops.roi_align(x, r, *arguments, 'avg', aligned),
                lambda x, r: oracles.roi_align(x, r, *arguments, aligned), maps_and(rois, images))


def some(size: int) -> Tensor:
    return regions(3 * size ** 2, 2, 12. * size)


def rotated(count: int, size: float) -> Tensor:
    """Boxes of x and y of the centre, width, height and angle; the first two cover each other."""
    found = torch.cat([torch.rand(count, 2, dtype=torch.float64) * size, torch.rand(count, 2, dtype=torch.float64) * 8,
                       random(count, 1) * 3], dim=1)
    found[1:2] = found[:1]
    return found


def align_rotated(ratio: int, aligned: bool, clockwise: bool) -> Case:
    arguments = ((2, 3), 0.5, ratio, aligned, clockwise)
    return Case(lambda x, r: ops.roi_align_rotated(x, r, *arguments),
                lambda x, r: oracles.roi_align_rotated(x, r, *arguments),
                maps_and(lambda size: torch.cat([torch.tensor([[0.], [1], [0]]), rotated(3, 12. * size)], dim=1)))


def deform_pool(ratio: int, with_offset: bool) -> Case:
    arguments = ((2, 3), 0.5, ratio, 0.3)
    return Case(lambda x, r, *offset: ops.deform_roi_pool(x, r, *(offset or [None]), *arguments),
                lambda x, r, *offset: oracles.deform_roi_pool(x, r, *(offset or [None]), *arguments),
                lambda size: [*maps_and(REGIONS['partly_outside'])(size), *[random(2, 2, 2, 3)] * with_offset])


REGIONS = {
    'some': some,
    'none': lambda size: at([]),
    'one': lambda size: at([[1, 2.2, 1.3, 8.9, 9.1]]),
    'whole_image': lambda size: at([[0, 0, 0, 14 * size, 12 * size]]),
    'outside': lambda size: at([[0, 50 * size, 50 * size, 60 * size, 60 * size], [1, -30, -30, -20, -20]]),
    'partly_outside': lambda size: at([[0, -5.3, -4.1, 6.2, 7.7], [1, 9.4, 7.3, 30.1, 25.6]]),
    'a_point': lambda size: at([[1, 4.3, 5.2, 4.3, 5.2]]),
}


# Deformable convolution

def deform(modulated: bool, kernel: int = 3, stride: int = 1, padding: int = 1, dilation: int = 1, groups: int = 1,
           deform_groups: int = 1, bias: bool = True, images: int = 1, finer: int = 0) -> Case:
    settings = (stride, padding, dilation, groups, deform_groups)

    def tensors(size: int) -> list[Tensor]:
        channels, side = 4 * size, 3 * size + 1
        out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        out += finer  # of offsets and mask: those of a level with more pixels
        # Quarters: between pixels, where there is a derivative, in every precision.
        shape = (images, deform_groups * 2 * kernel ** 2, out, out)
        offset = torch.randint(-2, 2, shape) + torch.randint(1, 4, shape).double() / 4
        weight = random(2 * channels, channels // groups, kernel, kernel) / kernel
        found = [random(images, channels, side, side), offset, weight]
        if modulated:
            found.insert(2, torch.rand(images, deform_groups * kernel ** 2, out, out, dtype=torch.float64))
            found += [random(2 * channels)] * bias
        return found

    if modulated:
        return Case(lambda x, offset, mask, weight, bias=None: ops.modulated_deform_conv2d(
                        x, offset, mask, weight, bias, *settings),
                    lambda x, offset, mask, weight, bias=None: oracles.deform_conv(
                        x, offset, mask, weight, bias, *settings), tensors, 4 + bias)
    return Case(lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, *settings),
                lambda x, offset, weight: oracles.deform_conv(x, offset, None, weight, None, *settings), tensors, 3)


# Loss; a class more than there are is the background.

def focal(gamma: float = 2., weighted: bool = False, count: int = 5) -> Case:
    def tensors(size: int) -> list[Tensor]:
        weight = [torch.rand(3 * size, dtype=torch.float64)] * weighted
        return [random(count * size, 3 * size) * 4, torch.randint(3 * size + 1, (count * size, )), *weight]

    return Case(lambda x, target, weight=None: ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'sum'),
                lambda x, target, weight=None: oracles.sigmoid_focal_loss(x, target, gamma, 0.3, weight).sum(), tensors)


# Maps

def attention_tensors(size: int, queries: int = 2) -> list[Tensor]:
    keys = sum(h * w for h, w in LEVELS)
    return [random(2, keys, 2, 2 * size), torch.rand(2, queries * size, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2,
            random(2, queries * size, 2, 2, 2)]


LEVELS = [(3, 4), (2, 2)]


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes = torch.tensor(LEVELS, device=value.device)
    return MultiScaleDeformableAttnFunction.apply(
        value, shapes, shapes.new_tensor([0, 12]), locations, weights, 64)


def carafe_case(images: int) -> Case:
    return Case(lambda x, masks: ops.carafe(x, masks, 3, 2, 2), lambda x, masks: oracles.carafe(x, masks, 3, 2, 2),
                lambda size: [random(images, 4, 2 * size, 3), random(images, 18, 4 * size, 6)], 2)


def masked_conv_case() -> Case:
    return Case(lambda x, mask, weight, bias: ops.masked_conv.masked_conv2d(x, mask, weight, bias, 1),
                lambda x, mask, weight, bias: torch.nn.functional.conv2d(x, weight, bias, padding=1) * (mask > 0),
                lambda size: [random(1, 2, 4 * size, 5), random(1, 4 * size, 5), random(3, 2, 3, 3), random(3)], 0)


def psa(kind: str, mask_size: tuple[int, int]) -> Case:
    return Case(lambda x: ops.PSAMask(kind, mask_size)(x), lambda x: oracles.psa_mask(x, kind, mask_size),
                lambda size: [random(2, mask_size[0] * mask_size[1], 3, 2 + size)])


def overlap_rotated_case(mode: str, aligned: bool, clockwise: bool) -> Case:
    def pairs(a: Tensor, b: Tensor) -> Tensor:
        found = oracles.grid(lambda i, j: torch.tensor(
            oracles.iou_rotated(a[i].tolist(), b[j].tolist(), mode, clockwise), dtype=torch.float64), len(a), len(b))
        return found.diagonal() if aligned else found
    return Case(partial(ops.box_iou_rotated, mode=mode, aligned=aligned, clockwise=clockwise), pairs,
                lambda size: [rotated(5 * size, 12), rotated(5 * size, 12)], 0)


def overlap_case(mode: str, aligned: bool, offset: int, first: int = 4, second: int = 4) -> Case:
    def pairs(a: Tensor, b: Tensor) -> Tensor:
        found = oracles.grid(lambda i, j: torch.tensor(
            oracles.iou(a[i].tolist(), b[j].tolist(), offset, mode), dtype=torch.float64), len(a), len(b))
        return found.diagonal() if aligned else found
    return Case(partial(ops.bbox_overlaps, mode=mode, aligned=aligned, offset=offset), pairs,
                lambda size: [boxes(first * size, 20), boxes(second * size, 20)], 0)


#: Operator -> its cases.
CASES: dict[str, dict[str, Case]] = {
    'roi_align': {
        **{name: align(0, True, rois) for name, rois in REGIONS.items()},
        'ratio_2': align(2, True, some), 'not_aligned': align(0, False, some), 'legacy': align(2, False, some)},
    'deform_conv': {
        'plain': deform(False), 'strided': deform(False, stride=2, padding=2, dilation=2),
        'groups': deform(False, groups=2, deform_groups=2, images=2), 'one_tap': deform(False, kernel=1, padding=0)},
    'modulated_deform_conv': {
        'plain': deform(True), 'no_bias': deform(True, bias=False),
        'strided': deform(True, stride=2, padding=2, dilation=2),
        'groups': deform(True, groups=2, deform_groups=2, images=2),
        'of_a_finer_level': deform(True, images=2, finer=3)},
    'ms_deform_attn': {'plain': Case(attend, lambda value, locations, weights: oracles.attention(
        value, LEVELS, locations, weights), attention_tensors, 3)},
    'sigmoid_focal_loss': {
        'plain': focal(), 'gamma_half': focal(0.5), 'weighted': focal(weighted=True), 'empty': focal(count=0)},
    'carafe': {'plain': carafe_case(1), 'images': carafe_case(2)},
    'masked_conv': {'plain': masked_conv_case()},
    'psamask': {f'{kind}_{h}x{w}': psa(kind, (h, w)) for kind in ('collect', 'distribute')
                for h, w in ((5, 5), (3, 5), (2, 4))},
    'box_iou_rotated': {f'{mode}_{"pairs" if aligned else "all"}_{"clockwise" if clockwise else "counter"}':
                        overlap_rotated_case(mode, aligned, clockwise)
                        for mode in ('iou', 'iof') for aligned in (False, True) for clockwise in (True, False)},
    'roi_align_rotated': {'adaptive': align_rotated(0, True, True), 'ratio_2': align_rotated(2, True, False),
                          'not_aligned': align_rotated(0, False, True)},
    'deform_roi_pool': {'plain': deform_pool(0, True), 'ratio_2': deform_pool(2, True),
                        'no_offset': deform_pool(0, False)},
    'bbox_overlaps': {f'{mode}_{"pairs" if aligned else "all"}_{offset}': overlap_case(mode, aligned, offset)
                      for mode in ('iou', 'iof') for aligned in (False, True) for offset in (0, 1)},
}
