"""Fused tensors for unfused layers: a model loads both forms."""
import sys
from collections.abc import Callable, Mapping, MutableMapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def can_fold(norm: nn.Module) -> bool:
    """Whether ``norm`` is a BatchNorm that keeps running statistics, in training or evaluation mode."""
    return isinstance(norm, _BatchNorm) and norm.running_var is not None


def adding(norm: _BatchNorm, bias: Tensor | None = None) -> dict[str, Tensor]:
    """Values for the tensors of ``norm`` that make it only add ``bias`` in evaluation mode, or do nothing without one.

    The variance is ``1 - eps``, whose sum with ``eps`` rounds to exactly 1.
    """
    numbers = {'weight': 1, 'bias': 0, 'running_mean': 0, 'running_var': 1 - norm.eps, 'num_batches_tracked': 0}
    values = {name: torch.full_like(value, numbers[name]) for name, value in norm.state_dict().items()}
    return values if bias is None else {**values, 'bias': bias}


def unfold_in(state_dict: MutableMapping[str, Tensor], fused: str, prefix: str,
              unfolded: Callable[[Tensor, Tensor], Mapping[str, Tensor]]) -> None:
    """Replace weight and bias of a fused layer, if present, by the tensors of the unfused layer.

    Args:
        state_dict: Name -> tensor; changed in place.
        fused: Prefix of the names of the fused layer's tensors.
        prefix: Prefix of the unfused layer's; if one of its tensors is present, nothing is changed.
        unfolded: Weight and bias -> the unfused layer's tensors.
    """
    names = f'{fused}weight', f'{fused}bias'
    if all(name in state_dict for name in names):
        values = {prefix + name: value for name, value in unfolded(*(state_dict[name] for name in names)).items()}
        if values.keys().isdisjoint(state_dict):
            for name in names:
                del state_dict[name]
            state_dict.update(values)


def to_own_form(model: nn.Module, state_dict: MutableMapping[str, Tensor]) -> None:
    """Convert fused tensors for unfused layers of ``model``, in place.

    Args:
        model: A model that holds a RepViT.
        state_dict: Name -> tensor, from a fused or an unfused model.
    """
    for name, module in model.named_modules():
        prefix = name and f'{name}.'
        if hasattr(module, 'to_own_form'):  # a repvit_mm.network.fusion.Fusible
            module.to_own_form(state_dict, prefix)
        elif is_fusible_conv_module(module) and module.conv.bias is None:
            norm = f'{prefix}{module.norm_name}.'
            if f'{prefix}conv.bias' in state_dict and not any(key.startswith(norm) for key in state_dict):
                values = adding(module.norm, state_dict.pop(f'{prefix}conv.bias'))
                state_dict.update((norm + key, value) for key, value in values.items())


def is_fusible_conv_module(module: nn.Module) -> bool:
    """Whether ``module`` is an mmcv ConvModule that computes a plain Conv2d and then a BatchNorm."""
    mmcv_cnn = sys.modules.get('mmcv.cnn')  # without it, no ConvModule exists
    if mmcv_cnn is None or not isinstance(module, mmcv_cnn.ConvModule) or not module.with_norm:
        return False
    order = module.order
    # Subclasses of Conv2d may change the weight or the operation; mmcv's wrapper only handles empty inputs.
    plain = type(module.conv) in (nn.Conv2d, mmcv_cnn.bricks.Conv2d) and not module.with_spectral_norm
    return plain and can_fold(module.norm) and order.index('norm') == order.index('conv') + 1
