"""Feature maps (N, C, H, W) sampled at predicted positions: deformable convolution and attention."""
from collections.abc import Callable

import torch
import torchvision  # noqa: F401, it registers torch.ops.torchvision
from torch import Tensor

from repvit_mm.ops.common import gradients, wide

__all__ = ['deform_conv_backward_input', 'deform_conv_backward_parameters', 'deform_conv_forward',
           'modulated_deform_conv_backward', 'modulated_deform_conv_forward', 'ms_deform_attn_backward',
           'ms_deform_attn_forward']


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor,
                        kW: int, kH: int, dW: int, dH: int, padW: int, padH: int, dilationW: int, dilationH: int,
                        group: int, deformable_group: int, im2col_step: int) -> None:
    """Convolution whose samples are moved by ``offset`` (N, groups * kH * kW * (y, x), H, W), into ``output``."""
    output.copy_(_convolve(_unmodulated(input, weight, offset), dH, dW, padH, padW, dilationH, dilationW, group,
                           deformable_group, False))


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor, gradInput: Tensor,
                               gradOffset: Tensor, weight: Tensor, columns: Tensor, kW: int, kH: int, dW: int, dH: int,
                               padW: int, padH: int, dilationW: int, dilationH: int, group: int,
                               deformable_group: int, im2col_step: int) -> None:
    """Gradients of the maps and offsets."""
    found = _convolve_backward(gradOutput, _unmodulated(input, weight, offset), dH, dW, padH, padW, dilationH,
                               dilationW, group, deformable_group, False)
    gradInput.copy_(found[0])
    gradOffset.copy_(found[2])


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor, gradWeight: Tensor,
                                    columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int,
                                    padH: int, dilationW: int, dilationH: int, group: int, deformable_group: int,
                                    scale: float, im2col_step: int) -> None:
    """Gradient of the weight, which does not depend on the weight's values."""
    found = _convolve_backward(gradOutput, _unmodulated(input, torch.zeros_like(gradWeight), offset), dH, dW, padH,
                               padW, dilationH, dilationW, group, deformable_group, False)
    gradWeight.copy_(found[1] * scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                  mask: Tensor, output: Tensor, columns: Tensor, kernel_h: int, kernel_w: int,
                                  stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int,
                                  dilation_w: int, group: int, deformable_group: int, with_bias: bool) -> None:
    """Deformable convolution whose samples are weighted by ``mask`` (N, groups * kH * kW, H, W), into ``output``."""
    bias = bias if with_bias else weight.new_zeros(len(weight))
    output.copy_(_convolve((input, weight, offset, mask, bias), stride_h, stride_w, pad_h, pad_w, dilation_h,
                           dilation_w, group, deformable_group, True))


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor,
                                   mask: Tensor, columns: Tensor, grad_input: Tensor, grad_weight: Tensor,
                                   grad_bias: Tensor, grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
                                   kernel_h: int, kernel_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
                                   dilation_h: int, dilation_w: int, group: int, deformable_group: int,
                                   with_bias: bool) -> None:
    """Gradients of all inputs, into the tensors ``grad_*``."""
    found = _convolve_backward(
        grad_output, (input, weight, offset, mask, weight.new_zeros(len(weight))), stride_h, stride_w, pad_h, pad_w,
        dilation_h, dilation_w, group, deformable_group, True)
    for grad, value in zip((grad_input, grad_weight, grad_offset, grad_mask), found[:4], strict=True):
        grad.copy_(value)
    if with_bias:
        grad_bias.copy_(found[4])


def _unmodulated(input: Tensor, weight: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
    """The tensors that torchvision's operators take, with a mask that is not used and a bias of zero."""
    return input, weight, offset, input.new_zeros(len(input), 1), weight.new_zeros(len(weight))


def _convolve(tensors: tuple[Tensor, ...], *settings: int) -> Tensor:
    with torch.autocast(tensors[0].device.type, enabled=False):  # on the CPU it would apply inside torchvision's
        return torch.ops.torchvision.deform_conv2d(*_channels_first(tensors), *settings)


def _convolve_backward(grad_output: Tensor, tensors: tuple[Tensor, ...], *settings: int) -> tuple[Tensor, ...]:
    """Gradients of the maps, weight, offsets, mask and bias."""
    with torch.autocast(grad_output.device.type, enabled=False):
        return torch.ops.torchvision._deform_conv2d_backward(*_channels_first((grad_output, *tensors)), *settings)


def _channels_first(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """As :func:`wide`, in channels-first memory format: torchvision 0.23 fails on 1 x 1 weights in others."""
    return [x.flatten().view(x.shape) for x in wide(*tensors)]


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
    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)
