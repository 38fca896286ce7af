"""RepViT as a backbone that returns a feature map of each stage."""
from collections.abc import Mapping, MutableMapping, Sequence
from math import prod
from typing import Any

import torch
import torch.fx
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..archs import get_arch, out_channels
from ..checkpoints import adapt_names, load_into, read_checkpoint, refuse_random_start
from ..errors import ConfigError
from .fusion import fuse_layers
from .layers import Stage, Stem
from .recompute import run

#: Feature map of a stage to return; see :class:`RepViT`.
FEATURE_TAPS = ('stage_end', 'penultimate')


@MODELS.register_module()
class RepViT(BaseModule):
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
        strides: Strides of the stem and of each downsampling, instead of 4, 2, 2 and ``last_stride``. Each is a number
            or a pair (vertical, horizontal): 1, 2 or 4 for the stem, 1 or 2 for the others.
        frozen_stages: -1 freezes nothing, 0 the stem, n > 0 the stem and the first n stages: parameters and
            BatchNorm statistics.
        norm_cfg: ``BN``, ``SyncBN``, or ``GN`` with ``num_groups``, which cannot be fused.
        norm_eval: Let every BatchNorm use its running statistics in training; its weight and bias are still trained.
        act_cfg: Activation, see :func:`repvit_mm.network.layers.build_act`.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        with_cp: Recompute the activations of each block, the stem and the downsamplings in the backward pass instead of
            keeping them. ``'cheap'`` recomputes only the outputs of BatchNorms, activation functions, sums and
            attention, not of convolutions: less than half the activation memory, for little extra time.
        deploy: Build the fused form, for fused weights.
        init_cfg: ``dict(type='Pretrained', checkpoint=X)`` loads X in any published format, see
            :func:`repvit_mm.load_checkpoint`. By default, weights are initialised as published.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Pixels of the image per pixel of each returned map; a pair where the two directions differ.

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
                 feature_tap: str = 'stage_end', last_stride: int = 2,
                 strides: Sequence[int | tuple[int, int]] | None = None, frozen_stages: int = -1,
                 norm_cfg: Mapping = {'type': 'BN'}, norm_eval: bool = False,
                 act_cfg: Mapping = {'type': 'GELU'}, drop_path_rate: float = 0., with_cp: bool | str = False,
                 deploy: bool = False, init_cfg: Mapping | Sequence[Mapping] | None = None):
        super().__init__(init_cfg)
        spec = get_arch(arch)
        num_stages = len(spec.widths)
        if strides is None:
            strides = [4, *[2] * (num_stages - 2), last_stride][:num_stages]
        elif last_stride != 2:
            raise ConfigError(f'strides={strides!r} includes the last one: leave out last_stride={last_stride!r}')
        _check(num_stages, in_channels, out_indices, feature_tap, strides, frozen_stages, drop_path_rate, with_cp,
               norm_cfg, act_cfg)
        strides = [_pair(stride) for stride in strides]
        if deploy and norm_cfg.get('type') not in ('BN', 'SyncBN'):
            raise ConfigError(f'deploy=True needs a norm_cfg of type BN or SyncBN; {dict(norm_cfg)} cannot be fused')
        self.arch, self.norm_cfg = arch, norm_cfg
        self.out_indices, self.feature_tap = tuple(out_indices), feature_tap
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.with_cp, self.deploy = with_cp, deploy

        self.stem = Stem(in_channels, spec.widths[0], strides[0], norm_cfg, act_cfg)
        self.stages = nn.ModuleList()
        last = self.out_indices[-1]
        rates = _split(drop_path_rate, [(i > 0) + depth + (i < num_stages - 1) for i, depth in enumerate(spec.depths)])
        for i in range(last + 1):
            closing = i < num_stages - 1 and not (i == last and feature_tap == 'penultimate')
            self.stages.append(Stage(spec.widths[i - 1] if i else None, spec.widths[i], spec.depths[i], closing,
                                     strides[i], spec, rates[i], norm_cfg, act_cfg))
        self.out_channels = tuple(out_channels(arch, self.out_indices))
        totals = [tuple(map(prod, zip(*strides[:i + 1], strict=True))) for i in self.out_indices]
        self.out_strides = tuple(height if height == width else (height, width) for height, width in totals)
        if deploy:
            fuse_layers(self)
        for module in self._frozen():
            module.requires_grad_(False)
        self.register_load_state_dict_post_hook(refuse_random_start)

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *self.stages[:self.frozen_stages]] if self.frozen_stages >= 0 else []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> for each of ``out_indices``, (N, channels, ceil(H / stride), ceil(W / stride))."""
        x = run(self.stem, x, self.with_cp)
        maps = []
        for i, stage in enumerate(self.stages):
            x, tapped = stage(x, self.with_cp)
            if i in self.out_indices:
                maps.append(tapped if self.feature_tap == 'penultimate' else x)
        return tuple(maps)

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that ``torch.jit.script`` compiles: TorchScript knows no tuple whose length is a setting."""
        traced = torch.fx.symbolic_trace(self)
        next(iter(reversed(traced.graph.nodes))).type = None
        traced.recompile()
        return traced

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for learning rates that decay from layer to layer.

        The stem is at 0, each block is one layer, with the downsampling before it, and everything after the backbone is
        the last layer.

        Args:
            param_name: Name in the whole model.
            prefix: Prefix of the backbone's names.

        Returns:
            The depth, and the number of layers.
        """
        counts = [len(stage.blocks) for stage in self.stages]
        name = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or name[0] not in ('stem', 'stages'):
            depth = sum(counts) + 1
        elif name[0] == 'stem':
            depth = 0
        else:  # stages.2.blocks.3 or stages.2.downsample
            depth = sum(counts[:int(name[1])]) + (int(name[3]) if name[2] == 'blocks' else 0) + 1
        return depth, sum(counts) + 2

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

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args) -> None:
        adapt_names(self, state_dict, prefix)  # here, so that it works with every loader
        super()._load_from_state_dict(state_dict, prefix, *args)


def _split(drop_path_rate: float, counts: Sequence[int]) -> list[list[float]]:
    """Linearly rising rates of all blocks, one list per stage."""
    rates = iter(torch.linspace(0, drop_path_rate, sum(counts), device='cpu').tolist())
    return [[next(rates) for _ in range(count)] for count in counts]


def _pair(stride: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(stride) if isinstance(stride, list | tuple) else (stride, stride)


def _check(num_stages: int, in_channels: int, out_indices: Sequence[int], feature_tap: str,
           strides: Sequence[int | tuple[int, int]], frozen_stages: int, drop_path_rate: float, with_cp: bool | str,
           norm_cfg: Mapping, act_cfg: Mapping) -> None:
    """Reject settings that would be ignored, or fail with an unclear error."""
    def require(valid: bool, setting: str, value: Any, expected: str) -> None:
        if not valid:
            raise ConfigError(f'{setting}={value!r} must be {expected}')

    stages = range(num_stages)
    require(isinstance(in_channels, int) and 0 < in_channels <= 4096, 'in_channels', in_channels,
            'a number from 1 to 4096')
    require(isinstance(out_indices, list | tuple) and len(out_indices) > 0
            and list(out_indices) == [i for i in stages if i in out_indices],
            'out_indices', out_indices, f'ascending numbers from {tuple(stages)}')
    require(feature_tap in FEATURE_TAPS, 'feature_tap', feature_tap, f'one of {", ".join(FEATURE_TAPS)}')
    require(isinstance(strides, list | tuple) and len(strides) == num_stages
            and all(len(_pair(stride)) == 2 and set(_pair(stride)) <= ({1, 2} if i else {1, 2, 4})
                    for i, stride in enumerate(strides)),
            'strides', strides, f'a list of {num_stages} numbers or pairs: 1, 2 or 4 for the stem, then 1 or 2')
    require(isinstance(frozen_stages, int) and -1 <= frozen_stages <= num_stages, 'frozen_stages', frozen_stages,
            f'-1 (nothing), 0 (stem) or 1 to {num_stages}')
    require(isinstance(drop_path_rate, int | float) and 0 <= drop_path_rate < 1, 'drop_path_rate', drop_path_rate,
            'a number from 0 to below 1')
    require(with_cp in (False, True, 'cheap'), 'with_cp', with_cp, "False, True or 'cheap'")
    for name, cfg in (('norm_cfg', norm_cfg), ('act_cfg', act_cfg)):
        require(isinstance(cfg, Mapping), name, cfg, 'a dict with a type')
