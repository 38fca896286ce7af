"""Optimisation as in the published runs, and mixed precision on a CPU.

Adaptive gradient clipping, two groups of parameters, and the learning rate of each epoch.
"""
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import autocast
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError
from ..network.backbone import RepViT


@torch.no_grad()
def adaptive_clip_grad(parameters: Iterable[Tensor], clip_factor: float, eps: float) -> None:
    """Clip each unit's gradient relative to the norm of its weights (https://arxiv.org/abs/2102.06171), in place.

    A unit computes one output: it is a filter, or a row of a linear layer. A bias or a BatchNorm's weight is
    one unit.

    Args:
        parameters: Those without a gradient are skipped.
        clip_factor: Largest norm of a gradient, relative to the norm of the weights.
        eps: Lower bound for the norm of the weights, so that weights at zero can be updated.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        limit = _unit_norms(parameter).clamp_(min=eps).mul_(clip_factor)
        parameter.grad.mul_(limit.div_(_unit_norms(parameter.grad).clamp_(min=1e-6)).clamp_(max=1))


def _unit_norms(x: Tensor) -> Tensor:
    if x.ndim <= 1:
        return torch.linalg.vector_norm(x)
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """An optimiser wrapper for bfloat16, on a CPU too, which mmengine's refuses; the loss is not scaled.

    It need not be: bfloat16 has the range of float32.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the losses in mixed precision."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TwoGroupsConstructor:
    """Builds an optimiser with weight decay on weights, but not on biases and normalisation layers.

    All parameters are in two groups, as in timm. mmengine's constructor, with ``norm_decay_mult`` and
    ``bias_decay_mult``, makes one group for each tensor, and the optimiser then launches its kernels for each
    group.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with the optimiser's in ``optimizer``. With ``clip_factor``, and
            optionally ``clip_eps`` (default: 1e-3), it clips by :func:`adaptive_clip_grad`, in mixed precision after
            the gradients are unscaled.
        paramwise_cfg: ``layer_decay_rate``: factor of the learning rate from each layer of a RepViT to the one before
            it, in models of every toolbox; there are two groups for each layer then.

    Raises:
        ConfigError: For an invalid setting, or if the model has no RepViT for ``layer_decay_rate``.
    """

    def __init__(self, optim_wrapper_cfg: Mapping, paramwise_cfg: Mapping | None = None):
        self.optim_wrapper_cfg, self.paramwise_cfg = optim_wrapper_cfg, dict(paramwise_cfg or {})
        rate = self.paramwise_cfg.get('layer_decay_rate', 1.)
        if self.paramwise_cfg.keys() - {'layer_decay_rate'} or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError(f'TwoGroupsConstructor: paramwise_cfg={self.paramwise_cfg} must be empty or '
                              'dict(layer_decay_rate=R) with R above 0 and up to 1; remove optim_wrapper.constructor '
                              "to use mmengine's")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimiser of ``model`` and its wrapper."""
        settings = dict(self.optim_wrapper_cfg)
        optimizer = dict(settings.pop('optimizer'))
        settings.setdefault('type', 'OptimWrapper')
        clip_factor, eps = settings.pop('clip_factor', None), settings.pop('clip_eps', 1e-3)
        if clip_factor is not None and not (clip_factor > 0 and eps > 0):
            raise ConfigError(f'optim_wrapper: clip_factor={clip_factor} and clip_eps={eps} must be positive')
        optimizer['params'] = parameter_groups(model, optimizer.get('lr'), **self.paramwise_cfg)
        wrapper = OPTIM_WRAPPERS.build(settings, default_args={'optimizer': OPTIMIZERS.build(optimizer)})
        if clip_factor is not None:
            wrapper.clip_func, wrapper.clip_grad_kwargs = adaptive_clip_grad, {'clip_factor': clip_factor, 'eps': eps}
        return wrapper


def parameter_groups(model: nn.Module, lr: float | None = None, layer_decay_rate: float = 1.) -> list[dict]:
    """The trainable parameters of ``model``: those that decay, and those that do not; by layer if rates differ.

    Args:
        model: The model.
        lr: Learning rate of the last layer.
        layer_decay_rate: See :class:`TwoGroupsConstructor`.
    """
    prefix, backbone = next(((f'{name}.' if name else '', module) for name, module in model.named_modules()
                             if isinstance(module, RepViT)), ('', None))
    if layer_decay_rate != 1 and (backbone is None or lr is None):
        raise ConfigError('layer_decay_rate needs a model with a RepViT, and optimizer.lr')
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_fixed = parameter.ndim <= 1 or name.endswith('.bias')
            depth, layers = (0, 1) if layer_decay_rate == 1 else backbone.get_layer_depth(name, prefix)
            group = groups.setdefault((depth, is_fixed), {'params': []})
            group['params'].append(parameter)
            if is_fixed:
                group['weight_decay'] = 0.
            if layer_decay_rate != 1:
                group['lr'] = lr * layer_decay_rate ** (layers - 1 - depth)
    return [groups[key] for key in sorted(groups)]


@PARAM_SCHEDULERS.register_module()
class PublishedCosineLR(_ParamScheduler):
    """The learning rate of each epoch of the published ImageNet runs.

    After a linear warm-up the learning rate follows a cosine that starts at the first epoch, not at the end
    of the warm-up. Each epoch uses the learning rate that the schedule gives for the epoch before it, so the
    first two use ``warmup_lr``.

    Args:
        optimizer: The optimiser; the learning rates of its groups are the peak.
        epochs: Length of the cosine, the epochs of the whole training.
        warmup_epochs: Length of the warm-up.
        warmup_lr: Learning rate at its start.
        min_lr: Learning rate at the end of the cosine.
        last_step: Epochs already done; -1 for a new training.

    Raises:
        ConfigError: If ``epochs`` is not longer than the warm-up.

    Example:
        >>> import torch
        >>> from repvit_mm.training import PublishedCosineLR
        >>> optimizer = torch.optim.AdamW([torch.zeros(1)], lr=4e-3)
        >>> scheduler = PublishedCosineLR(optimizer, epochs=300)
        >>> rates = [optimizer.param_groups[0]['lr']]
        >>> for _ in range(2):
        ...     _ = optimizer.step(), scheduler.step()
        ...     rates.append(optimizer.param_groups[0]['lr'])
        >>> [f'{rate:.4g}' for rate in rates]
        ['1e-06', '1e-06', '0.0008008']
    """

    def __init__(self, optimizer: Optimizer, epochs: int, warmup_epochs: int = 5, warmup_lr: float = 1e-6,
                 min_lr: float = 1e-5, last_step: int = -1):
        if epochs <= warmup_epochs:
            raise ConfigError(f'PublishedCosineLR needs more epochs ({epochs}) than warmup_epochs ({warmup_epochs})')
        self.epochs, self.warmup_epochs = epochs, warmup_epochs
        self.warmup_lr, self.min_lr = warmup_lr, min_lr
        super().__init__(optimizer, 'lr', last_step=last_step)

    def _get_value(self) -> list[float]:
        t = max(self.last_step - 1, 0)
        if t < self.warmup_epochs:
            return [self.warmup_lr + t * (peak - self.warmup_lr) / self.warmup_epochs for peak in self.base_values]
        remaining = (1 + math.cos(math.pi * min(t, self.epochs) / self.epochs)) / 2
        return [self.min_lr + (peak - self.min_lr) * remaining for peak in self.base_values]
