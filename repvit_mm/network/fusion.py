"""Structural re-parameterisation: folding BatchNorms and branches into one convolution, in layers and whole models.

``folded()`` of a layer returns the weight and bias of the equivalent single convolution. Fusion stores that
convolution; training on frozen statistics computes it on the fly, with gradients, which costs less than running the
branches. ``unfolded()`` is the reverse: values for the layer's own tensors that make it equivalent to a convolution.
"""
import copy
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten

from ..checkpoints.forms import can_fold, is_fusible_conv_module, unfold_in

ModuleT = TypeVar('ModuleT', bound=nn.Module)
LayerT = TypeVar('LayerT', nn.Conv2d, nn.Linear)


def scale_and_shift(norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and shift, (channels,) each, that ``norm`` applies when it uses its running statistics."""
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    shift = -norm.running_mean.to(dtype) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(dtype)
    return scale, shift


def fold(conv: nn.Conv2d, norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the single convolution that equals ``conv`` followed by ``norm``, computed in ``dtype``."""
    scale, shift = scale_and_shift(norm, dtype)
    if conv.bias is not None:
        shift = shift + conv.bias.to(dtype) * scale
    return conv.weight.to(dtype) * scale[:, None, None, None], shift


def fusion_dtype(weight: Tensor) -> torch.dtype:
    """Fusion computes in double precision and rounds once; Apple's GPUs (MPS) have no double precision."""
    return torch.float32 if weight.device.type == 'mps' else torch.float64


@torch.no_grad()
def make_layer(like: LayerT, weight: Tensor, bias: Tensor) -> LayerT:
    """A layer with ``weight`` and ``bias``, and the geometry, dtype, device and memory format of ``like``."""
    if isinstance(like, nn.Linear):
        layer = nn.Linear(like.in_features, like.out_features, device='meta')
    else:
        layer = nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding,
                          like.dilation, like.groups, padding_mode=like.padding_mode, device='meta')
    # empty_like keeps channels_last strides.
    layer.weight = nn.Parameter(torch.empty_like(like.weight).copy_(weight), like.weight.requires_grad)
    layer.bias = nn.Parameter(bias.to(like.weight), like.weight.requires_grad)
    return layer.train(like.training)


class Fusible(nn.Module, ABC):
    """A layer that can be replaced by a simpler one for inference, and also loads the tensors of that."""

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
        """Convert the fused tensors in place; others are left for the loader to report.

        Args:
            state_dict: Name -> tensor, in our names; may hold other modules' tensors, too.
            prefix: Prefix of the names of this layer's tensors.
        """
        if self.can_fuse():
            unfold_in(state_dict, prefix, prefix, self.unfolded)

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args) -> None:
        self.to_own_form(state_dict, prefix)  # here, so that it works with every loader
        super()._load_from_state_dict(state_dict, prefix, *args)

    def can_fuse(self) -> bool:
        """Whether every normalisation can be folded (GroupNorm cannot)."""
        return all(map(can_fold, self.norms()))


def fuse(model: ModuleT, inplace: bool = False, own_only: bool = False) -> ModuleT:
    """Fold BatchNorms into the preceding layers, and the branches of each RepViT block into one convolution.

    Takes any module that holds a RepViT: the backbone alone, a classifier, a segmentor, a whole detector. The layers
    of this package fuse themselves; an mmcv ``ConvModule`` with a plain convolution directly followed by a BatchNorm is
    fused, too. Other layers (GroupNorm, deformable convolutions, ...) are left unchanged. Fusing twice is the
    same as fusing once.

    Args:
        model: A model in evaluation mode.
        inplace: Change ``model`` itself instead of a copy.
        own_only: Do not fuse mmcv's ConvModules: outside of RepViT, the state dict keeps the names that the toolboxes'
            loaders expect.

    Returns:
        The fused model, in the dtype, device and memory format of ``model``.

    Raises:
        RuntimeError: If a fusible layer is in training mode, where its statistics still change.

    Example:
        >>> from repvit_mm import RepViT, fuse
        >>> model = RepViT('m0_9').eval()
        >>> sum(p.numel() for p in model.parameters()), sum(p.numel() for p in fuse(model).parameters())
        (4717792, 4682056)
    """
    training = [name for name, module in model.named_modules() if module.training and _is_fusible(module)]
    if training:
        raise RuntimeError(f'fuse() needs a model in evaluation mode, but {training[0] or "it"} is in training mode '
                           f'({len(training)} layers in total): call model.eval() first')
    if not inplace:
        # Heads of mmdet keep maps of the last training step, which deepcopy refuses because they have a graph.
        attributes = tree_flatten([vars(module) for module in model.modules()])[0]
        model = copy.deepcopy(model, {id(value): value.detach() for value in attributes
                                      if isinstance(value, Tensor) and not value.is_leaf})
    return fuse_layers(model, own_only)


def fuse_layers(model: nn.Module, own_only: bool = False) -> nn.Module:
    """Fuse in place without checking the mode; see :func:`fuse`."""
    fused: dict[nn.Module, nn.Module] = {}  # a layer shared by two parents stays shared

    def walk(module: nn.Module) -> nn.Module:
        if module not in fused:
            keep = own_only and is_fusible_conv_module(module)
            fused[module] = module if keep else _fuse_layer(module)
            if fused[module] is module:
                for name, child in module._modules.items():
                    if child is not None:
                        module._modules[name] = walk(child)
            if hasattr(module, 'deploy'):
                module.deploy = True
        return fused[module]

    return walk(model)


def _is_fusible(module: nn.Module) -> bool:
    return isinstance(module, Fusible) and module.can_fuse() or is_fusible_conv_module(module)


def _fuse_layer(module: nn.Module) -> nn.Module:
    if is_fusible_conv_module(module):
        module.conv = make_layer(module.conv, *fold(module.conv, module.norm, fusion_dtype(module.conv.weight)))
        delattr(module, module.norm_name)
        module.norm_name, module.with_norm = None, False
        return module
    return module.fuse() if _is_fusible(module) else module
