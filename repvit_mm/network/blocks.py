"""The blocks of RepViT (https://arxiv.org/abs/2307.09283), built from the layers in ``layers.py``."""
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from . import lean_training
from .layers import ConvBN, RepDWConv, build_act


class SqueezeExcite(nn.Module):
    """Channel attention (https://arxiv.org/abs/1709.01507) with ReLU and sigmoid.

    Args:
        channels: Channels of input and output; the bottleneck has a quarter, rounded to a multiple of 8.
    """

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        weights = x.mean((2, 3), keepdim=True)
        return lean_training.attend(x, self.fc2(self.fc1(weights).relu()).sigmoid())


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): drops a residual branch for whole samples in training.

    Args:
        rate: Probability of dropping the branch; kept samples are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}'


def _activated(x: Tensor, act: nn.Module, layer: nn.Module) -> Tensor:
    """``layer(act(x))``; an unfused :class:`ConvBN` can drop the activation until the backward pass."""
    return layer(x, act) if isinstance(layer, ConvBN) else layer(act(x))


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with twice as many channels in between, and a residual connection.

    Args:
        channels: Channels of input and output.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: See :class:`DropPath`.
    """

    def __init__(self, channels: int, norm_cfg: Mapping, act_cfg: Mapping, drop_path_rate: float = 0.):
        super().__init__()
        self.conv1 = ConvBN(channels, 2 * channels, norm_cfg=norm_cfg)
        self.act = build_act(act_cfg)
        self.conv2 = ConvBN(2 * channels, channels, norm_cfg=norm_cfg, zero_init=True)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return x + self.drop_path(_activated(self.conv1(x), self.act, self.conv2))


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: a quarter of the resolution.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output, even; the first convolution has half as many.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: Mapping, act_cfg: Mapping):
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels // 2, 3, stride=2, norm_cfg=norm_cfg)
        self.act = build_act(act_cfg)
        self.conv2 = ConvBN(out_channels // 2, out_channels, 3, stride=2, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        return lean_training.kept(_activated(self.conv1(x), self.act, self.conv2))


class Downsample(nn.Module):
    """Entry of a stage: depthwise 3x3 of ``stride``, 1x1 to the new width, channel mixer.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the depthwise convolution.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: See :class:`DropPath`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: Mapping, act_cfg: Mapping,
                 drop_path_rate: float = 0.):
        super().__init__()
        self.spatial = ConvBN(in_channels, in_channels, 3, stride, groups=in_channels, norm_cfg=norm_cfg)
        self.channel = ConvBN(in_channels, out_channels, norm_cfg=norm_cfg)
        self.channel_mixer = ChannelMixer(out_channels, norm_cfg, act_cfg, drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.channel_mixer(self.channel(self._downsampled(x)))

    def _downsampled(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or x.dtype == next(self.spatial.parameters()).dtype:
            return self.spatial(x)
        # In mixed precision: on a CPU, gradients of a strided depthwise convolution take ten times as long in bfloat16.
        with torch.autocast('cpu', enabled=False):
            return self.spatial(x.float())


class RepViTBlock(nn.Module):
    """Token mixer, optional squeeze-and-excitation, channel mixer.

    Args:
        channels: Channels of input and output.
        use_se: Whether the block has squeeze-and-excitation.
        first_version: See :class:`repvit_mm.network.layers.RepDWConv`.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: See :class:`DropPath`.
    """

    def __init__(self, channels: int, use_se: bool, first_version: bool, norm_cfg: Mapping, act_cfg: Mapping,
                 drop_path_rate: float = 0.):
        super().__init__()
        self.token_mixer = RepDWConv(channels, first_version, norm_cfg)
        self.se = SqueezeExcite(channels) if use_se else nn.Identity()
        self.channel_mixer = ChannelMixer(channels, norm_cfg, act_cfg, drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return self.channel_mixer(self.se(self.token_mixer(x)))


def checkpointed(block: nn.Module) -> Callable[[Tensor], Tensor]:
    """``block`` as a function that keeps no activations and recomputes them in the backward pass.

    The second forward pass does not update running statistics, so the results of training do not change.
    """
    return lambda x: checkpoint(block, x, use_reentrant=False,
                                context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
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
