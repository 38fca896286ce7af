"""Structural re-parameterisation of whole models: the only code that walks a model to fuse it."""
import copy
from typing import TypeVar

from torch import nn

from ..checkpoints.forms import is_fusible_conv_module
from .folding import Fusible, fold_into_conv

ModuleT = TypeVar('ModuleT', bound=nn.Module)


def fuse(model: ModuleT, inplace: bool = False, own_only: bool = False) -> ModuleT:
    """Fold BatchNorms into the preceding layers, and the branches of each RepViT block into one convolution.

    Takes any module that holds a RepViT: the backbone alone, a classifier, a segmentor, a whole detector. The layers
    of this package fuse themselves; an mmcv ``ConvModule`` with a plain convolution directly followed by a BatchNorm is
    fused, too. What cannot be fused (GroupNorm, deformable convolutions, ...) is left unchanged. Fusing twice is the
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
        model = copy.deepcopy(model)
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
        module.conv = fold_into_conv(module.conv, module.norm)
        delattr(module, module.norm_name)
        module.norm_name, module.with_norm = None, False
        return module
    return module.fuse() if _is_fusible(module) else module
