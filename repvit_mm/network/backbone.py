"""RepViT as a backbone that returns a feature map of each stage."""
from collections.abc import Mapping, MutableMapping, Sequence

import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import get_arch, out_channels
from ..checkpoints import adapt_names, load_into, read_checkpoint, refuse_random_start
from ..checkpoints.forms import LoadsBothForms
from ..errors import ConfigError
from .blocks import Downsample, RepViTBlock, Stem, checkpointed
from .fusion import fuse_layers
from .layers import pop_folded
from .lean_training import applies, half_the_memory

_KINDS = {list | tuple: 'a list of numbers', int: 'a whole number', int | float: 'a number'}
#: Which feature map of a stage is returned; see :class:`RepViT`.
FEATURE_TAPS = ('stage_end', 'penultimate')


class Stage(nn.Module):
    """One resolution of RepViT.

    Args:
        in_channels: Channels of the previous stage; None for the first stage, which has no downsampling.
        channels: Channels of this stage.
        depth: Blocks before the closing one; every second one, starting with the first, has squeeze-and-excitation.
        closing: Whether one more block, without squeeze-and-excitation, ends the stage.
        stride: Stride of the downsampling.
        first_version: See :class:`repvit_mm.network.layers.RepDWConv`.
        drop_path_rates: One for the downsampling, if any, and one for each block.
        norm_cfg: See :func:`repvit_mm.network.layers.build_norm`.
        act_cfg: See :func:`repvit_mm.network.layers.build_act`.
    """

    def __init__(self, in_channels: int | None, channels: int, depth: int, closing: bool, stride: int,
                 first_version: bool, drop_path_rates: Sequence[float], norm_cfg: Mapping, act_cfg: Mapping):
        super().__init__()
        rates = iter(drop_path_rates)
        self.downsample = nn.Identity() if in_channels is None else Downsample(
            in_channels, channels, stride, norm_cfg, act_cfg, next(rates))
        self.blocks = nn.ModuleList(
            RepViTBlock(channels, j % 2 == 0 and j < depth, first_version, norm_cfg, act_cfg, next(rates))
            for j in range(depth + closing))
        self.depth = depth

    def forward(self, x: Tensor, with_cp: bool = False) -> tuple[Tensor, Tensor]:
        """The last map, and the map before the closing block; without a closing block they are the same."""
        x = tapped = self.downsample(x)
        for number, block in enumerate(self.blocks, start=1):
            x = checkpointed(block)(x) if with_cp else block(x)
            if number == self.depth:
                tapped = x
        return x, tapped


@MODELS.register_module()
class RepViT(BaseModule, LoadsBothForms):
    """RepViT (Wang et al., CVPR 2024, https://arxiv.org/abs/2307.09283).

    Computes the same function as timm's ``repvit_*`` models. Only layers that ``out_indices`` needs are built, so every
    parameter gets a gradient.

    Args:
        arch: A name of :data:`repvit_mm.archs.ARCHS`, or a dict of ``widths`` and ``depths``
            (see :class:`repvit_mm.archs.ArchSpec`).
        in_channels: Channels of the image.
        out_indices: The stages whose feature maps are returned, ascending, counted from 0.
        feature_tap: ``'stage_end'`` returns the last map of each stage. ``'penultimate'`` returns the map before the
            last block of every stage but the last one, as the published detectors and timm's ``features_only`` do.
        last_stride: Stride of the last downsampling, 2 or 1 (RepViT-SAM).
        frozen_stages: -1 freezes nothing, 0 the stem, n > 0 the stem and the first n stages: parameters and
            BatchNorm statistics.
        norm_cfg: ``BN``, ``SyncBN``, or ``GN`` with ``num_groups``, which cannot be fused.
        norm_eval: Let every BatchNorm use its running statistics in training; its weight and bias are still trained.
        act_cfg: Activation, see :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        with_cp: Recompute the blocks' activations in the backward pass instead of keeping them. ``'cheap'`` recomputes
            only the outputs of BatchNorms, activation functions, sums and attention, not of convolutions: less than
            half the activation memory, for little extra time.
        deploy: Build the fused form, for fused weights.
        init_cfg: ``dict(type='Pretrained', checkpoint=X)`` loads X in any published format, see
            :func:`repvit_mm.load_checkpoint`. By default, weights are initialised as published.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Pixels of the image per pixel of each returned map.

    Raises:
        ConfigError: For an invalid setting or combination of settings.

    Example:
        >>> import torch
        >>> from repvit_mm import RepViT
        >>> model = RepViT('m0_9', out_indices=(1, 3)).eval()
        >>> [tuple(x.shape) for x in model(torch.zeros(1, 3, 224, 224))]
        [(1, 96, 28, 28), (1, 384, 7, 7)]
        >>> model.out_channels, model.out_strides
        ((96, 384), (8, 32))
    """

    def __init__(self, arch: str | Mapping, in_channels: int = 3, out_indices: Sequence[int] = (0, 1, 2, 3),
                 feature_tap: str = 'stage_end', last_stride: int = 2, frozen_stages: int = -1,
                 norm_cfg: Mapping = {'type': 'BN'}, norm_eval: bool = False,
                 act_cfg: Mapping = {'type': 'GELU'}, drop_path_rate: float = 0., with_cp: bool | str = False,
                 deploy: bool = False, init_cfg: Mapping | Sequence[Mapping] | None = None):
        super().__init__(init_cfg)
        spec = get_arch(arch)
        num_stages = len(spec.widths)
        _check(num_stages, in_channels, out_indices, feature_tap, last_stride, frozen_stages, drop_path_rate,
               with_cp)
        for name, cfg in (('norm_cfg', norm_cfg), ('act_cfg', act_cfg)):
            if not isinstance(cfg, Mapping):
                raise ConfigError(f'{name}={cfg!r} must be a dict with a type')
        if deploy and norm_cfg.get('type') not in ('BN', 'SyncBN'):
            raise ConfigError(f'deploy=True needs a norm_cfg of type BN or SyncBN; {dict(norm_cfg)} cannot be fused')
        self.arch, self.norm_cfg = arch, norm_cfg
        self.out_indices, self.feature_tap = tuple(out_indices), feature_tap
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.with_cp, self.deploy = with_cp, deploy

        self.stem = Stem(in_channels, spec.widths[0], norm_cfg, act_cfg)
        self.stages = nn.ModuleList()
        last, strides = self.out_indices[-1], [4]
        rates = _split(drop_path_rate, [(i > 0) + depth + (i < num_stages - 1) for i, depth in enumerate(spec.depths)])
        for i in range(last + 1):
            stride = last_stride if i == num_stages - 1 else 2
            closing = i < num_stages - 1 and not (i == last and feature_tap == 'penultimate')
            self.stages.append(Stage(spec.widths[i - 1] if i else None, spec.widths[i], spec.depths[i], closing, stride,
                                     spec.first_version, rates[i], norm_cfg, act_cfg))
            if i:
                strides.append(strides[-1] * stride)
        self.out_channels = tuple(out_channels(arch, self.out_indices))
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        if deploy:
            fuse_layers(self)
        for module in self._frozen():
            module.requires_grad_(False)
        self.register_load_state_dict_post_hook(refuse_random_start)

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *self.stages[:self.frozen_stages]] if self.frozen_stages >= 0 else []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> for each of ``out_indices``, (N, channels, ceil(H / stride), ceil(W / stride))."""
        with_cp = self.with_cp is True and self.training and torch.is_grad_enabled()
        if self.with_cp == 'cheap' and self.training and applies(x):
            with half_the_memory():
                return self._maps(x, False)
        return self._maps(x, with_cp)

    def _maps(self, x: Tensor, with_cp: bool) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x, tapped = stage(x, with_cp)
            if i in self.out_indices:
                maps.append(tapped if self.feature_tap == 'penultimate' else x)
        return tuple(maps)

    def train(self, mode: bool = True) -> 'RepViT':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names; the file must hold every tensor of the model.

        Raises:
            CheckpointError: If the file is missing, unreadable, or made for another architecture.
        """
        entries = list(self.init_cfg or ()) if isinstance(self.init_cfg, list | tuple | None) else [self.init_cfg]
        if not all(isinstance(entry, Mapping) for entry in entries):
            raise ConfigError(f"init_cfg={self.init_cfg!r} must be dict(type='Pretrained', checkpoint=...), "
                              'or a list of some')
        pretrained = [entry for entry in entries if entry.get('type') in ('Pretrained', PretrainedInit)]
        if len(pretrained) < max(len(entries), 1):
            self.init_cfg, init_cfg = [entry for entry in entries if entry not in pretrained], self.init_cfg
            super().init_weights()
            self.init_cfg = init_cfg
        for entry in pretrained:
            try:
                settings = PretrainedInit(**{key: value for key, value in entry.items() if key != 'type'})
            except TypeError as error:
                raise ConfigError(f'init_cfg={dict(entry)} is invalid: {error}') from error
            source = str(settings.checkpoint)
            load_into(self, read_checkpoint(source), source, prefix=settings.prefix or '')
        self._is_init = True

    def to_own_form(self, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
        if not self.deploy:  # each layer converts its own tensors
            return
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and (
                    folded := pop_folded(state_dict, f'{prefix}{name}.', self.norm_cfg)):
                state_dict[f'{prefix}{name}.weight'], state_dict[f'{prefix}{name}.bias'] = (
                    value.to(module.weight) for value in folded)

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args) -> None:
        adapt_names(self, state_dict, prefix)  # here, so that it works with every loader
        super()._load_from_state_dict(state_dict, prefix, *args)


def _split(drop_path_rate: float, counts: Sequence[int]) -> list[list[float]]:
    """Linearly rising rates of all blocks, one list per stage."""
    rates = iter(torch.linspace(0, drop_path_rate, sum(counts), device='cpu').tolist())
    return [[next(rates) for _ in range(count)] for count in counts]


def _check(num_stages: int, in_channels: int, out_indices: Sequence[int], feature_tap: str, last_stride: int,
           frozen_stages: int, drop_path_rate: float, with_cp: bool | str) -> None:
    for name, value, kinds in (
            ('out_indices', out_indices, list | tuple), ('in_channels', in_channels, int),
            ('frozen_stages', frozen_stages, int), ('drop_path_rate', drop_path_rate, int | float)):
        if not isinstance(value, kinds):
            raise ConfigError(f'{name}={value!r} must be {_KINDS[kinds]}')
    indices = list(out_indices)
    if not indices or indices != [index for index in range(num_stages) if index in indices]:
        raise ConfigError(f'out_indices={tuple(indices)} must be ascending numbers from {tuple(range(num_stages))}')
    if feature_tap not in FEATURE_TAPS:
        raise ConfigError(f'feature_tap={feature_tap!r} must be one of {", ".join(FEATURE_TAPS)}')
    if last_stride not in (1, 2):
        raise ConfigError(f'last_stride={last_stride} must be 1 or 2')
    if in_channels < 1:
        raise ConfigError(f'in_channels={in_channels} must be at least 1')
    if frozen_stages not in range(-1, num_stages + 1):
        raise ConfigError(f'frozen_stages={frozen_stages} must be -1 (nothing), 0 (stem) or 1 to {num_stages}')
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f'drop_path_rate={drop_path_rate} must be at least 0 and less than 1')
    if with_cp not in (False, True, 'cheap'):
        raise ConfigError(f"with_cp={with_cp!r} must be False, True or 'cheap'")
