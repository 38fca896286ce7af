"""Feature maps (N, C, H, W) sampled at predicted positions: deformable convolution and attention."""
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401, it registers torch.ops.torchvision
from torch import Tensor

from repvit_mm.ops.common import gradients, wide

#: A coordinate and an offset outside of any map.
OUTSIDE = 1e6


#: mmcv's names of stride, padding and dilation, (vertical, horizontal) each, and of both groups, in its two versions.
GEOMETRY = (('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group'),
            ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', 'group', 'deformable_group'))


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor,
                        **geometry: int) -> None:
    """Convolution whose samples are moved by ``offset`` (N, groups * kH * kW * (y, x), H, W), into ``output``."""
    output.copy_(_convolve(_unmodulated(input, weight, offset), geometry))


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor, gradInput: Tensor,
                               gradOffset: Tensor, weight: Tensor, columns: Tensor, **geometry: int) -> None:
    """Gradients of the maps and offsets."""
    found = _convolve_backward(gradOutput, _unmodulated(input, weight, offset), geometry)
    gradInput.copy_(found[0])
    gradOffset.copy_(found[2])


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor, gradWeight: Tensor,
                                    columns: Tensor, ones: Tensor, scale: float, **geometry: int) -> None:
    """Gradient of the weight, which does not depend on the weight's values."""
    tensors = _unmodulated(input, torch.zeros_like(gradWeight), offset)
    gradWeight.copy_(_convolve_backward(gradOutput, tensors, geometry)[1] * scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                  mask: Tensor, output: Tensor, columns: Tensor, with_bias: bool,
                                  **geometry: int) -> None:
    """Deformable convolution whose samples are weighted by ``mask`` (N, groups * kH * kW, H, W), into ``output``."""
    bias = bias if with_bias else weight.new_zeros(len(weight))
    offset, mask = _leading(offset, mask, output.shape[2:], weight, geometry)
    output.copy_(_convolve((input, weight, offset, mask, bias), geometry))


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                   mask: Tensor, columns: Tensor, grad_input: Tensor, grad_weight: Tensor,
                                   grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
                                   with_bias: bool, **geometry: int) -> None:
    """Gradients of all inputs, into the tensors ``grad_*``."""
    offset, mask = _leading(offset, mask, grad_output.shape[2:], weight, geometry)
    found = _convolve_backward(grad_output, (input, weight, offset, mask, weight.new_zeros(len(weight))), geometry)
    for grad, value in zip((grad_input, grad_weight, grad_offset, grad_mask), found, strict=False):
        unread = grad[0].numel() - value[0].numel()
        grad.copy_(F.pad(value.flatten(1), (0, unread)).view(grad.shape))
    if with_bias:
        grad_bias.copy_(found[4])


def _leading(offset: Tensor, mask: Tensor, size: torch.Size, weight: Tensor,
             geometry: Mapping[str, int]) -> list[Tensor]:
    """The parts of offsets and mask that are read, as (N, channels, *size).

    mmcv does not compare their size with that of the output, and reads each sample's leading numbers. DyHead relies on
    it: it convolves a coarser level with the offsets of a finer one.
    """
    taps = geometry['deformable_group'] * weight[0, 0].numel()
    return [x.flatten(1)[:, :channels * size.numel()].reshape(len(x), channels, *size)
            for x, channels in ((offset, 2 * taps), (mask, taps))]


def _unmodulated(input: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
    """The tensors that torchvision's operators take, with an empty mask, which is not used, and a bias of zero."""
    return input, weight, offset, input.new_zeros(len(input), 0), weight.new_zeros(len(weight))


def _settings(geometry: Mapping[str, int]) -> list[int]:
    """The settings that torchvision's operators take: :data:`GEOMETRY`, and whether the mask is used."""
    modulated = 'stride_h' in geometry
    return [*(geometry[name] for name in GEOMETRY[modulated]), modulated]


def _convolve(tensors: tuple[Tensor, ...], geometry: Mapping[str, int]) -> Tensor:
    with torch.autocast(tensors[0].device.type, enabled=False):  # on the CPU it would apply inside torchvision's
        return torch.ops.torchvision.deform_conv2d(*_prepared(tensors), *_settings(geometry))


def _convolve_backward(grad_output: Tensor, tensors: tuple[Tensor, ...],
                       geometry: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Gradients of the maps, weight, offsets, mask and bias."""
    settings, tensors = _settings(geometry), _prepared(tensors)
    with torch.autocast(grad_output.device.type, enabled=False):
        found = torch.ops.torchvision._deform_conv2d_backward(*_channels_first((grad_output, )), *tensors, *settings)
    # At -1 torchvision's derivative is that of the side towards the map; mmcv's is 0, as beyond.
    weight, offset = tensors[1:3]
    beyond = (_positions(offset, *weight.shape[2:], *settings[:6]) <= -1).any(3, keepdim=True)
    slopes = found[2].view(*beyond.shape[:3], 2, *beyond.shape[4:]).masked_fill(beyond, 0).view(offset.shape)
    return *found[:2], slopes, *found[3:]


def _prepared(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors for torchvision."""
    input, weight, offset, *rest = _channels_first(tensors)
    return [input, weight, _finite(offset), *rest]


def _finite(coordinates: Tensor) -> Tensor:
    """Coordinates with NaN and infinity replaced by one outside of any map: torchvision would crash."""
    return torch.where(coordinates.abs() < OUTSIDE, coordinates, OUTSIDE)


def _channels_first(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """As :func:`wide`, in channels-first memory format: torchvision 0.23 fails on 1 x 1 weights in others."""
    return [x.flatten().view(x.shape) for x in wide(*tensors)]


def _positions(offset: Tensor, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
               dilation_h: int, dilation_w: int) -> Tensor:
    """Where the map is sampled, (N, groups, kernel_h * kernel_w, (y, x), H, W)."""
    def along(size: int, kernel: int, stride: int, pad: int, dilation: int) -> Tensor:
        steps = torch.arange(max(size, kernel), device=offset.device)
        return steps[:kernel, None] * dilation + steps[:size] * stride - pad

    height, width = offset.shape[2:]
    y = along(height, kernel_h, stride_h, pad_h, dilation_h)[:, None, :, None]
    x = along(width, kernel_w, stride_w, pad_w, dilation_w)[None, :, None, :]
    taps = torch.stack(torch.broadcast_tensors(y, x), dim=2).flatten(0, 1)
    return taps + offset.view(len(offset), -1, kernel_h * kernel_w, 2, height, width)


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
                           sampling_locations: Tensor, attention_weights: Tensor, im2col_step: int) -> Tensor:
    """Weighted sum of samples from several levels, (N, queries, channels); mmcv runs plain torch on the CPU."""
    attend = _attention(value_spatial_shapes)
    return attend(*wide(value, sampling_locations, attention_weights)).to(value.dtype)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
                            sampling_locations: Tensor, attention_weights: Tensor, grad_output: Tensor,
                            grad_value: Tensor, grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int) -> None:
    """Gradients of the values, positions and weights."""
    found = gradients(_attention(value_spatial_shapes), wide(value, sampling_locations, attention_weights),
                      *wide(grad_output))
    for grad, result in zip((grad_value, grad_sampling_loc, grad_attn_weight), found, strict=True):
        grad.copy_(result)


def _attention(shapes: Tensor) -> Callable[..., Tensor]:
    """mmcv's function of the values, positions and weights."""
    # Imported here, as mmcv.ops is still being imported when this module is.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
    sizes = shapes.tolist()
    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(
        value, sizes, _finite(locations), weights)
