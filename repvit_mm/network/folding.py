"""Fold a BatchNorm that uses its running statistics into the layer before it, and unfold it again.

``folded()`` of a layer returns the weight and bias of the equivalent single convolution. Fusion stores that
convolution; training on frozen statistics computes it on the fly, with gradients, which costs less than running the
branches. ``unfolded()`` is the reverse: values for the layer's own tensors that make it equivalent to a convolution.
"""
from abc import ABC, abstractmethod
from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.forms import LoadsBothForms, can_fold, unfold_in


def has_fixed_statistics(norm: nn.Module) -> bool:
    """Whether ``norm`` is a BatchNorm that uses its running statistics: scale and shift do not depend on the input."""
    return isinstance(norm, _BatchNorm) and not norm.training and norm.running_var is not None


def scale_and_shift(norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and shift, (channels,) each, that ``norm`` applies when it uses its running statistics."""
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    shift = -norm.running_mean.to(dtype) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(dtype)
    return scale, shift


def fusion_dtype(weight: Tensor) -> torch.dtype:
    """Fusion computes in double precision and rounds once; Apple's GPUs (MPS) have no double precision."""
    return torch.float32 if weight.device.type == 'mps' else torch.float64


@torch.no_grad()
def make_conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with ``weight`` and ``bias``, and the geometry, dtype, device and memory format of ``like``."""
    conv = nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding, like.dilation,
                     like.groups, padding_mode=like.padding_mode, device='meta')
    # empty_like keeps channels_last strides.
    conv.weight = nn.Parameter(torch.empty_like(like.weight).copy_(weight), like.weight.requires_grad)
    conv.bias = nn.Parameter(bias.to(like.weight), like.weight.requires_grad)
    return conv.train(like.training)


def make_linear(like: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with ``weight`` and ``bias``, and the dtype and device of ``like``."""
    linear = nn.Linear(like.in_features, like.out_features, device='meta')
    linear.weight = nn.Parameter(weight.detach().to(like.weight), like.weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().to(like.weight), like.weight.requires_grad)
    return linear.train(like.training)


def fold(conv: nn.Conv2d, norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the single convolution that equals ``conv`` followed by ``norm``, computed in ``dtype``."""
    scale, shift = scale_and_shift(norm, dtype)
    if conv.bias is not None:
        shift = shift + conv.bias.to(dtype) * scale
    return conv.weight.to(dtype) * scale[:, None, None, None], shift


def fold_into_conv(conv: nn.Conv2d, norm: _BatchNorm) -> nn.Conv2d:
    """The single convolution that equals ``conv`` followed by ``norm``."""
    return make_conv(conv, *fold(conv, norm, fusion_dtype(conv.weight)))


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv`` with another weight and bias."""
    return F.conv2d(x, weight.to(conv.weight.dtype), bias.to(conv.weight.dtype), conv.stride, conv.padding,
                    conv.dilation, conv.groups)


class Fusible(LoadsBothForms, ABC):
    """A layer that can be replaced by a simpler one for inference."""

    @abstractmethod
    def norms(self) -> list[nn.Module]:
        """The normalisations that have to be folded."""

    @abstractmethod
    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias of the equivalent convolution or linear layer, computed in ``dtype``."""

    @abstractmethod
    def unfolded(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """Values for its own tensors for which :meth:`folded` returns these; requires :meth:`can_fuse`."""

    @abstractmethod
    def fuse(self) -> nn.Module:
        """The equivalent layer without normalisation; requires :meth:`can_fuse`."""

    def to_own_form(self, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
        if self.can_fuse():
            unfold_in(state_dict, prefix, prefix, self.unfolded)

    def can_fuse(self) -> bool:
        """Whether every normalisation can be folded (GroupNorm cannot)."""
        return all(map(can_fold, self.norms()))

    def runs_on_fixed_statistics(self) -> bool:
        """Whether it is in training mode while its BatchNorms use their running statistics."""
        return self.training and all(map(has_fixed_statistics, self.norms()))
