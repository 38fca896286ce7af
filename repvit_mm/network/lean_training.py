"""Training on batch statistics that keeps half the activations for the backward pass, with the same results.

Convolutions are expensive to recompute; BatchNorms, activation functions, sums and channel attention are cheap. In
:func:`half_the_memory`, the feature maps that these return carry, as an attribute, a recipe to recompute them from
tensors that are kept anyway. An operation that needs such a map in the backward pass keeps the recipe instead of the
map. Maps without a recipe, evaluation, and norms other than a BatchNorm on batch statistics run as usual; torch.compile
decides itself what to keep.
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

try:
    from torch.compiler import is_compiling
except ImportError:  # before torch 2.3
    from torch._dynamo import is_compiling

_active: ContextVar[bool] = ContextVar('half_the_memory', default=False)


class Maker:
    """Recomputes a feature map from tensors that are kept for the backward pass.

    A map can be needed to compute another one, and again in the next step of the backward pass: it is computed once.
    """

    def __init__(self, make: Callable[..., Tensor]):
        self.make, self.wanted, self.made = make, False, None

    def part(self, *tensors: Tensor) -> Tensor:
        """The map, to compute another one from it."""
        if self.made is not None:
            return self.made
        made = self.make(*tensors)
        self.made = made if self.wanted else None
        return made

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The map, for the step of the backward pass that needs it."""
        made, self.made = self.made, None
        return self.make(*tensors) if made is None else made


class Recipe(NamedTuple):
    """How to recompute a map; an attribute of it.

    Attributes:
        maker: Recomputes the map.
        tensors: The maker's arguments.
        version: The map's version; once the map is changed in place, the recipe is no longer valid.
    """

    maker: Maker
    tensors: tuple[Tensor, ...]
    version: int


def _attach(x: Tensor, make: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    if _active.get():
        x.recipe = Recipe(Maker(make), tuple(tensor.detach() for tensor in tensors), x._version)
    return x


def _recipe(x: Tensor) -> Recipe | None:
    recipe = getattr(x, 'recipe', None)
    return recipe if recipe is not None and recipe.version == x._version else None


def _recipe_or_itself(x: Tensor) -> tuple[Maker, tuple[Tensor, ...]]:
    recipe = _recipe(x)
    return (Maker(lambda x: x), (x.detach(),)) if recipe is None else recipe[:2]


def kept(x: Tensor) -> Tensor:
    """``x`` without its recipe: a map that is kept anyway need not be recomputed."""
    if _recipe(x) is not None:
        x.recipe = None
    return x


@contextmanager
def half_the_memory() -> Iterator[None]:
    """Keep recipes instead of maps in forward passes; outside of it, the functions below keep what torch keeps."""
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def applies(x: Tensor) -> bool:
    """Whether torch's autograd runs the backward pass, on a device that has the operations used here."""
    return (torch.is_grad_enabled() and not is_compiling() and not torch.jit.is_tracing()
            and x.device.type in ('cpu', 'cuda'))


def _learns(norm: nn.Module, x: Tensor) -> bool:
    """Whether ``norm`` is a BatchNorm on the statistics of the batch."""
    return (type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and norm.training and norm.affine
            and norm.running_var is not None and x.numel() > x.shape[1])


def normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(x)``."""
    if not (applies(x) and _active.get() and _learns(norm, x)):
        return norm(x)
    maker, tensors = _recipe_or_itself(x)
    maker.wanted = True
    y, mean, inverse_std = _Normalisation.apply(norm, maker, x, norm.weight, norm.bias, *tensors)
    return _attach(y, lambda mean, scale, shift, *tensors: _affine(maker.part(*tensors), mean, scale, shift),
                   mean, norm.weight.detach() * inverse_std, norm.bias, *tensors)


def affine(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """``x * scale + shift`` for each channel, where :func:`applies`: a cheaper depthwise 1x1 convolution."""
    scale = scale.to(torch.promote_types(x.dtype, torch.float32))
    shift = torch.zeros_like(scale) if shift is None else shift.to(scale.dtype)
    return _attach(_scaled(scale, shift, x), _scaled, scale, shift, x)


def add(*maps: Tensor) -> Tensor:
    """The sum of maps."""
    total = sum(maps[1:], start=maps[0])
    if not _active.get():
        return total
    recipes = [_recipe_or_itself(x) for x in maps]
    makers, counts = [maker for maker, _ in recipes], [len(tensors) for _, tensors in recipes]

    def make_sum(*tensors: Tensor) -> Tensor:
        tensors = iter(tensors)
        parts = (maker.part(*islice(tensors, count)) for maker, count in zip(makers, counts, strict=True))
        return sum(parts, start=next(parts))

    return _attach(total, make_sum, *[tensor for _, tensors in recipes for tensor in tensors])


def attend(x: Tensor, weights: Tensor) -> Tensor:
    """``x * weights``, (N, C, H, W) and (N, C, 1, 1)."""
    recipe = _recipe(x)
    if recipe is None or not torch.is_grad_enabled():
        return x * weights
    maker = recipe.maker
    maker.wanted = True
    return _attach(_Attention.apply(maker, x, weights, *recipe.tensors),
                   lambda weights, *tensors: maker.part(*tensors) * weights, weights, *recipe.tensors)


def convolve(conv: nn.Conv2d, x: Tensor, act: nn.Module | None = None) -> Tensor:
    """``conv(act(x))``."""
    recipe = _recipe(x)
    if recipe is None or not torch.is_grad_enabled():
        return conv(x if act is None else act(x))
    recipe.maker.wanted = True
    return _Convolution.apply(conv, act, recipe.maker, x, conv.weight, *recipe.tensors)


class _Normalisation(Function):
    @staticmethod
    def forward(ctx: Any, norm: nn.Module, maker: Maker, x: Tensor, weight: Tensor, bias: Tensor,
                *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        ctx.group, ctx.count = _group(norm), None
        if ctx.group is None:
            y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, norm.running_mean, norm.running_var, True,
                                                           momentum, norm.eps)
        else:
            mean, variance, ctx.count = _shared_statistics(x, ctx.group)
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * (ctx.count / (ctx.count - 1))).to(norm.running_var), momentum)
            inverse_std = torch.rsqrt(variance + norm.eps)
            y = _affine(x, mean, weight * inverse_std, bias)
        ctx.maker, ctx.eps = maker, norm.eps
        ctx.save_for_backward(weight, mean, inverse_std, *tensors)
        ctx.mark_non_differentiable(mean, inverse_std)
        return y, mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse_std, *tensors = ctx.saved_tensors
        x = ctx.maker(*tensors)
        if ctx.group is None:
            grads = torch.ops.aten.native_batch_norm_backward(grad, x, weight, None, None, mean, inverse_std, True,
                                                              ctx.eps, ctx.needs_input_grad[2:5])
        else:
            products, plain = _sums(grad, x, mean)
            means = torch.stack([products, plain])
            dist.all_reduce(means, group=ctx.group)
            means /= ctx.count
            scale, nothing = weight * inverse_std, torch.zeros_like(mean)
            grad_x = _affine(grad, means[1], scale, nothing)
            grad_x += _affine(x, mean, -scale * inverse_std.square() * means[0], nothing)
            grads = grad_x, products * inverse_std, plain
        return None, None, *grads, *[None] * len(tensors)


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, maker: Maker, x: Tensor, weights: Tensor, *tensors: Tensor) -> Tensor:
        ctx.maker = maker
        ctx.save_for_backward(weights, *tensors)
        return x * weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, *tensors = ctx.saved_tensors
        grad_weights = (grad * ctx.maker(*tensors)).sum((2, 3), keepdim=True)
        return None, grad * weights, grad_weights, *[None] * len(tensors)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, conv: nn.Conv2d, act: nn.Module | None, maker: Maker, x: Tensor, weight: Tensor,
                *tensors: Tensor) -> Tensor:
        ctx.act, ctx.maker = act, maker
        ctx.geometry = conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
        ctx.save_for_backward(weight, *tensors)
        return F.conv2d(x if act is None else act(x), weight, None, *ctx.geometry[:3], conv.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:5]
        x = y = ctx.maker(*tensors)
        if ctx.act is not None:
            with torch.enable_grad():
                x.requires_grad_()
                y = ctx.act(x.clone() if getattr(ctx.act, 'inplace', False) else x)
        # With autocast, the convolution ran in the dtype of its output.
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, y.detach().to(grad.dtype), weight.to(grad.dtype), None, *ctx.geometry, (*needs, False))
        if needs[0] and ctx.act is not None:
            grad_x, = torch.autograd.grad(y, x, grad_x.to(y.dtype))
        return None, None, None, grad_x, grad_weight, *[None] * len(tensors)


def _affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``(x - mean) * scale + shift`` for each channel, computed in the dtype of ``mean``, returned in that of ``x``."""
    # A BatchNorm on fixed statistics: each direction is one operation.
    return F.batch_norm(x, mean, torch.ones_like(mean), scale.to(mean.dtype), shift.to(mean.dtype), eps=0.)


def _scaled(scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    return _affine(x, torch.zeros_like(scale), scale, shift)


def _sums(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad * (x - mean)`` and of ``grad`` for each channel, in the dtype of ``mean``."""
    ones = torch.ones_like(mean)
    return torch.ops.aten.native_batch_norm_backward(grad, x, ones, None, None, mean, ones, True, 0.,
                                                     (False, True, True))[1:]


def _group(norm: nn.Module) -> Any:
    """The process group that shares the statistics of ``norm``; None if there is only this process."""
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def _shared_statistics(x: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of values for each channel, over the processes of ``group``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    # Given running statistics, it computes in their dtype.
    mean, variance = torch.batch_norm_update_stats(x, *x.new_zeros(2, x.shape[1], dtype=dtype), 0.)
    local = torch.stack([torch.full_like(mean, x.numel() / x.shape[1]), mean, variance])
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, local, group)
    counts, means, variances = torch.stack(gathered, 1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    return mean, (counts * (variances + (means - mean).square())).sum(0) / count, count
