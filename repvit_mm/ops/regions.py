"""RoI pooling of feature maps (N, C, H, W). A region is the index of its image, and x1, y1, x2, y2 in pixels of it."""
import torch
import torchvision  # noqa: F401, it registers torch.ops.torchvision
from torch import Tensor

from repvit_mm.errors import UserError
from repvit_mm.ops.common import wide

__all__ = ['roi_align_backward', 'roi_align_forward', 'roi_pool_backward', 'roi_pool_forward']


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    """Average of the samples in each bin of each region, into ``output``."""
    if pool_mode == 0:
        raise UserError("RoIAlign with pool_mode='max' needs an mmcv with compiled operators; use 'avg'")
    input, rois = wide(input, rois)
    output.copy_(torch.ops.torchvision.roi_align(
        input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Gradient of the maps, into ``grad_input``."""
    grad_output, rois = wide(grad_output, rois)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad_output, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned))


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, pooled_height: int,
                     pooled_width: int, spatial_scale: float) -> None:
    """Maximum in each bin of each region, into ``output``, and its position in the map into ``argmax``, -1 if empty.

    torchvision's operator differs: it rounds a region to whole pixels before dividing it into bins.
    """
    def bins(start: Tensor, end: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
        """The positions in each bin of each region (K, count, longest bin), and which of them are in the bin."""
        size, steps = ((end - start) / count)[:, None], torch.arange(count + 1, device=start.device)
        edges = steps * size + start[:, None]
        first, last = edges[:, :-1].floor().clamp(0, limit).long(), edges[:, 1:].ceil().clamp(0, limit).long()
        last = torch.where(size > 0, last, first)
        longest = int((last - first).max()) if last.numel() else 0
        positions = first[..., None] + torch.arange(max(longest, 1), device=start.device)
        return positions.clamp(max=limit - 1), positions < last[..., None]

    values, boxes = wide(input, rois[:, 1:])
    start, end = boxes[:, :2] * spatial_scale, (boxes[:, 2:] + 1) * spatial_scale
    height, width = input.shape[2:]
    rows, in_row = bins(start[:, 1], end[:, 1], pooled_height, height)
    columns, in_column = bins(start[:, 0], end[:, 0], pooled_width, width)
    for k, image in enumerate(rois[:, 0].long().tolist()):
        inside = (in_row[k][:, None, :, None] & in_column[k][None, :, None, :]).flatten(2)
        positions = (rows[k][:, None, :, None] * width + columns[k][None, :, None, :]).flatten(2)
        found, best = values[image].flatten(1)[:, positions].masked_fill(~inside, -torch.inf).max(dim=-1)
        empty = ~inside.any(dim=-1)
        output[k] = found.masked_fill(empty, 0)
        where = positions.expand(len(best), -1, -1, -1).gather(-1, best[..., None])[..., 0]
        argmax[k] = where.masked_fill(empty, -1)


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, pooled_height: int,
                      pooled_width: int, spatial_scale: float) -> None:
    """Gradient of the maps, into ``grad_input``: each maximum gets that of its bin."""
    grad_output, total = wide(grad_output, grad_input)
    _, channels, height, width = grad_input.shape
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    positions = planes[..., None, None] * height * width + argmax
    total.view(-1).index_add_(0, positions[argmax >= 0], grad_output[argmax >= 0])
    grad_input.copy_(total)
