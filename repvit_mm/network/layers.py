"""Layers of RepViT (https://arxiv.org/abs/2307.09283), which fuse themselves; its stem, blocks and stages."""
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import ArchSpec
from ..checkpoints.forms import adding, can_fold
from ..errors import ConfigError
from .fusion import Fusible, fold, fusion_dtype, make_layer, scale_and_shift
from .recompute import run

#: ``type`` of a ``norm_cfg`` -> module class.
NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'GN': nn.GroupNorm}
#: ``type`` of an ``act_cfg`` -> module class.
ACTIVATIONS = {name: getattr(nn, name) for name in ('GELU', 'ReLU', 'ReLU6', 'LeakyReLU', 'Hardswish', 'SiLU')}


def build_norm(channels: int, norm_cfg: Mapping) -> nn.Module:
    """Build the normalisation layer of a feature map.

    Args:
        channels: Channels of the feature map.
        norm_cfg: ``type`` is a key of :data:`NORMS`, ``requires_grad=False`` freezes weight and bias, the other
            keys are settings of the class (``eps``, ``momentum``, ``num_groups``).

    Raises:
        ConfigError: For an unknown type or setting, or an invalid value.
    """
    settings = dict(norm_cfg)
    is_trained = settings.pop('requires_grad', True)
    settings['num_channels' if norm_cfg.get('type') == 'GN' else 'num_features'] = channels
    return _build(NORMS, settings, 'norm_cfg').requires_grad_(bool(is_trained))


def build_act(act_cfg: Mapping) -> nn.Module:
    """Build an activation function; ``act_cfg['type']`` is a key of :data:`ACTIVATIONS`.

    Raises:
        ConfigError: For an unknown type or setting.
    """
    return _build(ACTIVATIONS, act_cfg, 'act_cfg')


def _build(table: Mapping[str, type], cfg: Mapping, setting: str) -> nn.Module:
    settings = dict(cfg)
    kind = settings.pop('type', None)
    if not isinstance(kind, str) or kind not in table:
        raise ConfigError(f'{setting} has type {kind!r}; choose one of {", ".join(table)}')
    try:
        return table[kind](**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{setting}={dict(cfg)} is invalid: {error}') from error


def can_bypass(conv: nn.Module, x: Tensor) -> bool:
    """Whether ``conv(x)`` may be computed without calling ``conv``: it has no hooks, parametrisation or wrapper."""
    hooks = conv._forward_pre_hooks, conv._forward_hooks, conv._backward_pre_hooks, conv._backward_hooks
    return type(conv) is nn.Conv2d and not any(hooks) and isinstance(x, Tensor)  # torch.fx traces with a proxy


def trains_folded(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer(x)`` trains on fixed statistics, where one convolution with a folded weight costs less."""
    return layer.training and all(
        can_fold(part) and not part.training if isinstance(part, _BatchNorm) else
        type(part) in (ConvBN, RepDWConv, nn.Identity) or can_bypass(part, x) for part in layer.modules())


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv`` with another weight and bias."""
    return F.conv2d(x, weight.to(conv.weight.dtype), bias.to(conv.weight.dtype), conv.stride, conv.padding,
                    conv.dilation, conv.groups)


class ConvBN(Fusible):
    """Convolution without bias, then a normalisation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd; the padding is ``kernel_size // 2``.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
        norm_cfg: See :func:`build_norm`.
        zero_init: Initialise the normalisation's weight to 0, so that a residual branch outputs zero at first.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int | tuple[int, int] = 1,
                 groups: int = 1, norm_cfg: Mapping = {'type': 'BN'}, zero_init: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups,
                              bias=False)
        self.norm = build_norm(out_channels, norm_cfg)
        if zero_init and self.norm.weight is not None:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if trains_folded(self, x):
            return convolve(self.conv, x, *self.folded(torch.float32))
        return self.norm(self.conv(x))

    def norms(self) -> list[nn.Module]:
        return [self.norm]

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return fold(self.conv, self.norm, dtype)

    def unfolded(self, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
        return {'conv.weight': weight, **_under('norm', adding(self.norm, bias))}

    def fuse(self) -> nn.Conv2d:
        return make_layer(self.conv, *self.folded(fusion_dtype(self.conv.weight)))


class BNLinear(Fusible):
    """BatchNorm1d, then a linear layer: the classifier of RepViT.

    Args:
        in_features: Length of the input vectors.
        out_features: Length of the output vectors, the number of classes.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_features)
        self.linear = nn.Linear(in_features, out_features)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) -> (N, out_features)."""
        return self.linear(self.norm(x))

    def norms(self) -> list[nn.Module]:
        return [self.norm]

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale, shift = scale_and_shift(self.norm, dtype)
        weight = self.linear.weight.to(dtype)
        return weight * scale, self.linear.bias.to(dtype) + weight @ shift

    def unfolded(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        return {**_under('norm', adding(self.norm)), 'linear.weight': weight, 'linear.bias': bias}

    def fuse(self) -> nn.Linear:
        return make_layer(self.linear, *self.folded(fusion_dtype(self.linear.weight)))


class RepDWConv(Fusible):
    """Token mixer: a depthwise 3x3, a depthwise 1x1 and the identity, summed; one depthwise 3x3 when fused.

    Args:
        channels: Channels of input and output.
        first_version: Each convolution is followed by a BatchNorm, as in the paper's first version. Otherwise the
            1x1 has a bias instead, and the sum is followed by a BatchNorm, too.
        norm_cfg: See :func:`build_norm`.
    """

    def __init__(self, channels: int, first_version: bool = False, norm_cfg: Mapping = {'type': 'BN'}):
        super().__init__()
        self.first_version = first_version
        self.dw3x3 = ConvBN(channels, channels, 3, groups=channels, norm_cfg=norm_cfg)
        if first_version:
            self.dw1x1 = ConvBN(channels, channels, 1, groups=channels, norm_cfg=norm_cfg)
            self.norm = nn.Identity()
        else:
            self.dw1x1 = nn.Conv2d(channels, channels, 1, groups=channels)
            self.norm = build_norm(channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        if trains_folded(self, x):
            return convolve(self.dw3x3.conv, x, *self.folded(torch.float32))
        if not self.first_version and self.training and can_bypass(self.dw1x1, x):
            # A depthwise 1x1 convolution scales each channel, and the identity scales it by one: a BatchNorm on fixed
            # statistics, whose passes are one operation each.
            scale = 1 + self.dw1x1.weight.flatten()
            scaled = F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, self.dw1x1.bias, eps=0.)
            return self.norm(self.dw3x3(x) + scaled)
        return self.norm(self.dw3x3(x) + self.dw1x1(x) + x)

    def norms(self) -> list[nn.Module]:
        return [self.dw3x3.norm, self.dw1x1.norm if self.first_version else self.norm]

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight, bias = self.dw3x3.folded(dtype)
        if self.first_version:
            weight_1x1, bias_1x1 = self.dw1x1.folded(dtype)
        else:
            weight_1x1, bias_1x1 = self.dw1x1.weight.to(dtype), self.dw1x1.bias.to(dtype)
        # The identity is a depthwise 1x1 convolution of weight one; both 1x1 are added to the centre of the 3x3.
        weight = weight + F.pad(weight_1x1 + 1, (1, 1, 1, 1))
        bias = bias + bias_1x1
        if not self.first_version:
            scale, shift = scale_and_shift(self.norm, dtype)
            weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        return weight, bias

    def unfolded(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        if self.first_version:
            dw1x1 = self.dw1x1.unfolded(torch.full_like(self.dw1x1.conv.weight, -1), None)  # cancels the identity
            return {**_under('dw3x3', self.dw3x3.unfolded(weight, bias)), **_under('dw1x1', dw1x1)}
        dw1x1 = {'weight': torch.full_like(self.dw1x1.weight, -1), 'bias': torch.zeros_like(self.dw1x1.bias)}
        return {**_under('dw3x3', self.dw3x3.unfolded(weight, None)), **_under('dw1x1', dw1x1),
                **_under('norm', adding(self.norm, bias))}

    def fuse(self) -> nn.Conv2d:
        return make_layer(self.dw3x3.conv, *self.folded(fusion_dtype(self.dw3x3.conv.weight)))


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f'{name}.{key}': value for key, value in tensors.items()}


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
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`.
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
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`.
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
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`.
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
        first_version: See :class:`RepDWConv`.
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`.
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
        norm_cfg: See :func:`build_norm`.
        act_cfg: See :func:`build_act`.
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
