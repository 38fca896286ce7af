"""RoI pooling of feature maps (N, C, H, W). A region is the index of its image, and x1, y1, x2, y2 in pixels of it."""
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401, it registers torch.ops.torchvision
from torch import Tensor

from ..errors import UserError
from .common import gradients, wide

#: Largest coordinate of a region, in sides of the feature map.
LARGEST = 4


def bounded(rois: Tensor, spatial_scale: float, size: torch.Size, inverted: bool = True) -> Tensor:
    """The regions, with those that would end the process moved to where they pool to zero.

    torchvision samples a region at every pixel, inside the map or not: NaN crashes, 1e9 takes all memory, and on the
    CPU an aligned region may not be ``inverted``: end before its start.
    """
    limit = LARGEST * max(size) / spatial_scale
    usable = rois.isfinite().all(1) & (rois[:, 1:5].abs().amax(1) <= limit)
    if not inverted:
        usable &= (rois[:, 3:] >= rois[:, 1:3]).all(1)
    away = torch.full_like(rois, -limit)
    away[:, 0] = 0
    return torch.where(usable[:, None], rois, away)


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    """Average of the samples in each bin of each region, into ``output``."""
    if pool_mode == 0:
        raise UserError("RoIAlign with pool_mode='max' needs an mmcv with compiled operators; use 'avg'")
    input, rois = wide(input, rois)
    rois = bounded(rois, spatial_scale, input.shape[2:], not aligned)
    output.copy_(torch.ops.torchvision.roi_align(
        input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Gradient of the maps, into ``grad_input``."""
    grad_output, rois = wide(grad_output, rois)
    rois = bounded(rois, spatial_scale, grad_input.shape[2:], not aligned)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad_output, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned))


# In plain torch

#: Regions that are sampled at once.
CHUNK = 64


def _average(maps: Tensor, images: Tensor, extent: Tensor, size: tuple[int, int], sampling_ratio: int,
             place: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Average of the samples in each bin of each region (K, C, *size).

    Args:
        maps: (N, C, H, W).
        images: Index of the image of each region (K).
        extent: Height and width of each region in pixels of the maps (K, 2).
        size: Bins of a region, vertically and horizontally.
        sampling_ratio: Samples of a bin in both directions; one a pixel if 0.
        place: Gets the indices of some regions (k), and the positions of samples within a region, from 0 to 1,
            vertically (1, bins, samples, 1, 1) and horizontally (1, 1, 1, bins, samples). Returns the positions y and x
            in the map, (k, bins, samples, bins, samples).
    """
    height, width = maps.shape[2:]
    output = maps.new_zeros(len(images), maps.shape[1], *size)
    steps = (extent / extent.new_tensor(size)).ceil().clamp(min=0).long()
    if sampling_ratio > 0:
        steps = torch.full_like(steps, sampling_ratio)
    kinds = torch.cat([images.long()[:, None], steps], dim=1)
    for image, *grid in kinds.unique(dim=0).tolist():
        if 0 in grid:
            continue
        down, across = ((torch.arange(bins * n, device=maps.device, dtype=maps.dtype) + 0.5).view(bins, n) / (bins * n)
                        for bins, n in zip(size, grid, strict=True))
        same = (kinds == kinds.new_tensor([image, *grid])).all(1).nonzero()[:, 0]
        for rows in same.split(CHUNK):
            y, x = place(rows, down[None, :, :, None, None], across)
            inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
            where = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
            where = torch.where(inside[..., None], where, 0).view(1, -1, 1, 2)
            found = F.grid_sample(maps[image][None], where, padding_mode='border', align_corners=False)[0].view(
                -1, *y.shape)
            output[rows] = torch.where(inside, found, 0).mean((3, 5)).transpose(0, 1)
    return output


def _roi_align_rotated(maps: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float, sampling_ratio: int,
                       aligned: bool, clockwise: bool) -> Tensor:
    rois = bounded(rois, spatial_scale, maps.shape[2:])
    centre, extent = rois[:, 1:3] * spatial_scale - 0.5 * aligned, rois[:, 3:5] * spatial_scale
    extent = extent if aligned else extent.clamp(min=1)
    angle = rois[:, 5] * (1 if clockwise else -1)

    def place(rows: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        middle_x, middle_y, width, height, sine, cosine = torch.cat(
            [centre, extent, angle.sin()[:, None], angle.cos()[:, None]], dim=1)[rows].view(-1, 6, 1, 1, 1, 1).unbind(1)
        y, x = (down - 0.5) * height, (across - 0.5) * width
        return x * sine + y * cosine + middle_y, x * cosine - y * sine + middle_x

    return _average(maps, rois[:, 0], extent.flip(1), size, sampling_ratio, place)


def roi_align_rotated_forward(input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int,
                              spatial_scale: float, sampling_ratio: int, aligned: bool, clockwise: bool) -> None:
    """As RoIAlign of regions (K, 6): index, x and y of the centre, width, height, and angle in radians."""
    output.copy_(_roi_align_rotated(*wide(input, rois), (pooled_height, pooled_width), spatial_scale, sampling_ratio,
                                    aligned, clockwise))


def roi_align_rotated_backward(grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int,
                               pooled_width: int, spatial_scale: float, sampling_ratio: int, aligned: bool,
                               clockwise: bool) -> None:
    """Gradient of the maps, into ``grad_input``."""
    grad_output, maps, rois = wide(grad_output, grad_input, rois)
    pool = partial(_roi_align_rotated, rois=rois, size=(pooled_height, pooled_width), spatial_scale=spatial_scale,
                   sampling_ratio=sampling_ratio, aligned=aligned, clockwise=clockwise)
    grad_input.copy_(gradients(pool, [maps], grad_output)[0])


def _deform_roi_pool(maps: Tensor, offset: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int,
                     gamma: float) -> Tensor:
    rois = bounded(rois, spatial_scale, maps.shape[2:])
    start, extent = rois[:, 1:3] * spatial_scale - 0.5, (rois[:, 3:] - rois[:, 1:3]) * spatial_scale

    def place(rows: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (gamma * offset[rows])[:, :, :, None, :, None].unbind(1)
        left, top, width, height = torch.cat([start, extent], dim=1)[rows].view(-1, 4, 1, 1, 1, 1).unbind(1)
        x, y = torch.broadcast_tensors(left + (across + x) * width, top + (down + y) * height)
        return y, x

    return _average(maps, rois[:, 0], extent.flip(1), offset.shape[2:], sampling_ratio, place)


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, pooled_height: int,
                            pooled_width: int, spatial_scale: float, sampling_ratio: int, gamma: float) -> None:
    """As RoIAlign, with bins moved by ``gamma * offset`` (K, (x, y), *bins) of the region's size; empty for 0."""
    maps, offset, rois = wide(input, offset, rois)
    offset = offset if offset.numel() else maps.new_zeros(len(rois), 2, pooled_height, pooled_width)
    output.copy_(_deform_roi_pool(maps, offset, rois, spatial_scale, sampling_ratio, gamma))


def deform_roi_pool_backward(grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor, grad_input: Tensor,
                             grad_offset: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float,
                             sampling_ratio: int, gamma: float) -> None:
    """Gradients of the maps and offsets."""
    grad_output, maps, offset, rois = wide(grad_output, input, offset, rois)
    offset = offset if offset.numel() else maps.new_zeros(len(rois), 2, pooled_height, pooled_width)
    pool = partial(_deform_roi_pool, rois=rois, spatial_scale=spatial_scale, sampling_ratio=sampling_ratio, gamma=gamma)
    found = gradients(pool, [maps, offset], grad_output)
    grad_input.copy_(found[0])
    if grad_offset.numel():
        grad_offset.copy_(found[1])
