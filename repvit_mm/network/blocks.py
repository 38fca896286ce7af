"""Blocks of RepViT (https://arxiv.org/abs/2307.09283): stem, downsampling, the block, and stages of them."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..archs import ArchSpec
from .layers import ConvBN, RepDWConv, build_act
from .recompute import run


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
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


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
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}'


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
        return x + self.drop_path(self.conv2(self.act(self.conv1(x))))


class Stem(nn.Module):
    """Two 3x3 convolutions: with their stride of 2 each, a quarter of the resolution.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the output, even; the first convolution has half as many.
        stride: Strides of both together, (vertical, horizontal): 1, 2 or 4. The first convolution takes up to 2.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int], norm_cfg: Mapping,
                 act_cfg: Mapping):
        super().__init__()
        first = tuple(min(s, 2) for s in stride)
        second = tuple(s // f for s, f in zip(stride, first, strict=True))
        self.conv1 = ConvBN(in_channels, out_channels // 2, 3, first, norm_cfg=norm_cfg)
        self.act = build_act(act_cfg)
        self.conv2 = ConvBN(out_channels // 2, out_channels, 3, second, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.conv2(self.act(self.conv1(x)))


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

    def __init__(self, in_channels: int, out_channels: int, stride: int | tuple[int, int], norm_cfg: Mapping,
                 act_cfg: Mapping, drop_path_rate: float = 0.):
        super().__init__()
        self.spatial = ConvBN(in_channels, in_channels, 3, stride, groups=in_channels, norm_cfg=norm_cfg)
        self.channel = ConvBN(in_channels, out_channels, norm_cfg=norm_cfg)
        self.channel_mixer = ChannelMixer(out_channels, norm_cfg, act_cfg, drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.channel_mixer(self.channel(self._downsampled(x)))

    def _downsampled(self, x: Tensor) -> Tensor:
        # In mixed precision on a CPU, a strided depthwise convolution takes ten times as long in bfloat16.
        if isinstance(x, Tensor) and x.device.type == 'cpu' and x.dtype != next(self.spatial.parameters(), x).dtype:
            with torch.autocast('cpu', enabled=False):
                return self.spatial(x.float())
        return self.spatial(x)


class RepViTBlock(nn.Module):
    """Token mixer, optional squeeze-and-excitation, channel mixer.

    Args:
        channels: Channels of input and output.
        use_se: Whether the block has squeeze-and-excitation.
        first_version: See :class:`repvit_mm.network.layers.RepDWConv`.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: See :class:`DropPath`.
        reparameterise: Whether the token mixer has branches in training, not just the depthwise 3x3.
    """

    def __init__(self, channels: int, use_se: bool, first_version: bool, norm_cfg: Mapping, act_cfg: Mapping,
                 drop_path_rate: float = 0., reparameterise: bool = True):
        super().__init__()
        self.token_mixer = (RepDWConv(channels, first_version, norm_cfg) if reparameterise else
                            ConvBN(channels, channels, 3, groups=channels, norm_cfg=norm_cfg))
        self.se = SqueezeExcite(channels) if use_se else nn.Identity()
        self.channel_mixer = ChannelMixer(channels, norm_cfg, act_cfg, drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return self.channel_mixer(self.se(self.token_mixer(x)))


class Stage(nn.Module):
    """One resolution of RepViT.

    Args:
        in_channels: Channels of the previous stage; None for the first stage, which has no downsampling.
        channels: Channels of this stage.
        depth: Blocks before the closing one.
        closing: Whether one more block ends the stage.
        stride: Stride of the downsampling.
        arch: Kind of the blocks.
        drop_path_rates: One for the downsampling, if any, and one for each block.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
    """

    def __init__(self, in_channels: int | None, channels: int, depth: int, closing: bool, stride: tuple[int, int],
                 arch: ArchSpec, drop_path_rates: Sequence[float], norm_cfg: Mapping, act_cfg: Mapping):
        super().__init__()
        rates = iter(drop_path_rates)
        self.downsample = nn.Identity() if in_channels is None else Downsample(
            in_channels, channels, stride, norm_cfg, act_cfg, next(rates))
        self.blocks = nn.ModuleList(
            RepViTBlock(channels, arch.se == 'every' or arch.se == 'alternate' and j % 2 == 0 and j < depth,
                        arch.first_version, norm_cfg, act_cfg, next(rates), arch.reparameterise)
            for j in range(depth + closing))
        self.depth = depth

    def forward(self, x: Tensor, with_cp: bool | str = False) -> tuple[Tensor, Tensor]:
        """The last map, and the map before the closing block; without a closing block they are the same."""
        x = tapped = run(self.downsample, x, with_cp)
        for number, block in enumerate(self.blocks, start=1):
            x = run(block, x, with_cp)
            if number == self.depth:
                tapped = x
        return x, tapped
