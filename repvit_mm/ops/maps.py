"""Operators on feature maps (N, C, H, W): CARAFE, masked convolution, point-wise attention."""
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from repvit_mm.ops.common import gradients, wide

# CARAFE: upsampling with a separate kernel for each pixel

def carafe(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Sum of each pixel's neighbours, weighted by ``masks`` (N, groups * kernel², scale * H, scale * W)."""
    (n, c, h, w), reach = features.shape, kernel // 2
    features = F.pad(features, (reach, ) * 4).reshape(n, groups, c // groups, h + 2 * reach, 1, w + 2 * reach, 1)
    masks = masks.reshape(n, groups, 1, kernel, kernel, h, scale, w, scale)
    total = sum(features[:, :, :, y:y + h, :, x:x + w] * masks[:, :, :, y, x]
                for y in range(kernel) for x in range(kernel))
    return total.reshape(n, c, h * scale, w * scale)


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor, rmasks: Tensor,
                   output: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> None:
    """As :func:`carafe`, into ``output``; keeps the maps in ``rfeatures`` for the backward pass."""
    rfeatures.copy_(features)
    output.copy_(carafe(*wide(features, masks), kernel_size, group_size, scale_factor))


def carafe_backward(top_grad: Tensor, rfeatures: Tensor, masks: Tensor, rtop_grad: Tensor, rbottom_grad_hs: Tensor,
                    rbottom_grad: Tensor, rmask_grad: Tensor, bottom_grad: Tensor, mask_grad: Tensor,
                    kernel_size: int, group_size: int, scale_factor: int) -> None:
    """Gradients of the maps and masks."""
    function = partial(carafe, kernel=kernel_size, groups=group_size, scale=scale_factor)
    found = gradients(function, wide(rfeatures, masks), *wide(top_grad))
    bottom_grad.copy_(found[0])
    mask_grad.copy_(found[1])


# Masked convolution of one map, at given positions only

def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor, kernel_h: int,
                          kernel_w: int, pad_h: int, pad_w: int) -> None:
    """The pixels (C * kernel_h * kernel_w, positions) under the kernel at each position, into ``col``."""
    rows = mask_h_idx[:, None] + torch.arange(kernel_h, device=im.device)
    columns = mask_w_idx[:, None] + torch.arange(kernel_w, device=im.device)
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    col.copy_(padded[:, rows[:, :, None], columns[:, None, :]].permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int,
                          channels: int) -> None:
    """Put the values (C, positions) into the map."""
    im[0, :, mask_h_idx, mask_w_idx] = col


# PSANet's attention: each pixel's mask, laid over the whole map

def _psamask(input: Tensor, collect: bool, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int) -> Tensor:
    n, _, h, w = input.shape

    def index(size: int, limit: int, half: int) -> tuple[Tensor, Tensor]:
        """For each pair of pixels (size, size), the index into the mask, and whether the mask covers it."""
        steps = torch.arange(size, device=input.device)
        entry = steps[:, None] - steps + half
        return entry.clamp(0, limit - 1), (entry >= 0) & (entry < limit)

    (row, in_rows), (column, in_columns) = index(h, h_mask, half_h_mask), index(w, w_mask, half_w_mask)
    masks = input.reshape(n, h_mask, w_mask, h, w)
    # (n, other y, other x, y, x)
    laid = masks[:, row[:, None, :, None], column[None, :, None, :], torch.arange(h, device=input.device)[:, None],
                 torch.arange(w, device=input.device)]
    laid = laid * (in_rows[:, None, :, None] & in_columns[None, :, None, :])
    laid = laid.view(n, h * w, h * w)
    return (laid if collect else laid.transpose(1, 2)).reshape(n, h * w, h, w)


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, h_feature: int, w_feature: int,
                    h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int) -> None:
    """Masks (N, h_mask * w_mask, H, W) to (N, H * W, H, W): what pixels collect (type 0) or distribute (1)."""
    output.copy_(_psamask(input, psa_type == 0, h_mask, w_mask, half_h_mask, half_w_mask))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int, h_feature: int,
                     w_feature: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int) -> None:
    """Gradient of the masks."""
    function = partial(_psamask, collect=psa_type == 0, h_mask=h_mask, w_mask=w_mask, half_h_mask=half_h_mask,
                       half_w_mask=half_w_mask)
    grad_input.copy_(gradients(function, [grad_input], grad_output)[0])
