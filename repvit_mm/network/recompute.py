"""Recompute feature maps in the backward pass instead of keeping them: all maps of a block, or only the cheap ones.

Convolutions are expensive to recompute; BatchNorms, activation functions, sums and channel attention are cheap. While a
block runs in :class:`CheapMaps`, each map that a cheap function returns gets a recipe: the function and its arguments,
which are kept tensors or recipes themselves. An operation that saves such a map for its backward pass saves the recipe
instead. The layers do not know about it.
"""
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

try:
    from torch.compiler import is_compiling
except ImportError:  # before torch 2.3
    from torch._dynamo import is_compiling

#: Functions that are cheap to call again; ``batch_norm_elemt`` is the last step of a SyncBatchNorm.
CHEAP = {F.batch_norm, torch.batch_norm_elemt, F.gelu, F.relu, F.hardtanh, F.leaky_relu, F.hardswish, F.silu,
         Tensor.add, Tensor.mul}


def run(block: nn.Module, x: Tensor, with_cp: bool | str) -> Tensor:
    """Run ``block(x)`` with the activation memory of ``with_cp``; see :class:`repvit_mm.RepViT`."""
    # torch.fx traces with proxies, which are no tensors.
    if not (with_cp and block.training and torch.is_grad_enabled() and isinstance(x, Tensor)):
        return block(x)
    if with_cp != 'cheap':
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))
    if is_compiling() or torch.jit.is_tracing():  # torch.compile decides itself what to keep
        return block(x)
    with CheapMaps() as maps, saved_tensors_hooks(maps.save, load):
        return block(x)


class Kept:
    """A tensor that is kept. Like autograd, it refuses a tensor that was modified before the backward pass."""

    def __init__(self, tensor: Tensor):
        self.tensor, self.version = tensor.detach(), tensor._version

    def make(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError('one of the variables needed for gradient computation has been modified by an inplace '
                               f'operation: its shape is {tuple(self.tensor.shape)}')
        return self.tensor


class Recipe:
    """A function and its arguments, to recompute a map."""

    def __init__(self, result: Tensor, function: Callable[..., Tensor], args: tuple, kwargs: Mapping[str, Any]):
        self.result, self.state = weakref.ref(result), _state(result)
        self.function, self.args, self.kwargs = function, args, kwargs
        self.saved, self.made = False, None

    def make(self) -> Tensor:
        made = self.made
        if made is None:
            args = (arg.make() if isinstance(arg, Kept | Recipe) else arg for arg in self.args)
            made = self.function(*args, **self.kwargs)
            self.made = made if self.saved else None  # made for another map: the operation that saved it comes next
        return made


class CheapMaps(TorchFunctionMode):
    """Records the recipes of maps while it is active."""

    def __init__(self):
        super().__init__()
        self.recipes: dict[int, Recipe] = {}

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function in CHEAP and result.ndim == 4 and not kwargs.get('inplace'):
            if function is F.batch_norm:
                args, kwargs = _batch_norm_args(result, *args, **kwargs), {}
            # Numbers of each channel are copied: FSDP frees parameters between the passes.
            args = tuple(arg if not isinstance(arg, Tensor) else self._find(arg) if arg.ndim == 4 else
                         arg.detach().clone() for arg in args)
            if args:
                self.recipes[result.data_ptr()] = Recipe(result, function, args, kwargs)
        return result

    def save(self, tensor: Tensor) -> Kept | Recipe:
        """The object that an operation saves for its backward pass instead of ``tensor``."""
        kept = self._find(tensor)
        kept.saved = True
        return kept

    def _find(self, tensor: Tensor) -> Kept | Recipe:
        recipe = self.recipes.get(tensor.data_ptr())
        if recipe is None or recipe.result() is None or recipe.state != _state(tensor):  # freed, or changed in place
            return Kept(tensor)
        return recipe


@torch.no_grad()
def load(kept: Kept | Recipe) -> Tensor:
    """The tensor that an operation saved, in the backward pass."""
    made, kept.made = kept.make(), None
    return made


def _state(tensor: Tensor) -> tuple:
    return tensor._version, tensor.dtype, tensor.shape, tensor.stride()


def _batch_norm_args(result: Tensor, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
                     weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
                     momentum: float = 0.1, eps: float = 1e-5) -> tuple:
    """Arguments of ``F.batch_norm`` that give ``result`` again: on the statistics that it saved, if on the batch's."""
    if not training:
        return x, running_mean, running_var, weight, bias, False, momentum, eps
    mean, scale = (getattr(result.grad_fn, f'_saved_result{number}', None) for number in (1, 2))
    if mean is None:  # without gradients, or on a device whose BatchNorm saves something else
        return ()
    scale = scale if weight is None else (weight.detach() * scale).to(mean.dtype)
    return x, mean, torch.ones_like(mean), scale, None if bias is None else bias.to(mean.dtype), False, 0., 0.


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep a second forward pass from updating running statistics."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.running_var is not None]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
