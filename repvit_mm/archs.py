"""The published architectures. The only home of their widths and depths."""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .errors import ConfigError


class ArchSpec(NamedTuple):
    """Widths and depths of a RepViT.

    Attributes:
        widths: Channels of each stage.
        depths: Blocks of each stage. Every stage but the last ends with one more block, the closing block.
        first_version: Whether the depthwise branches carry a BatchNorm each (the paper's first version)
            instead of one BatchNorm after their sum.
        se: Which blocks have squeeze-and-excitation: ``'alternate'`` is every second one of ``depths``, starting with
            the first of each stage, as published; ``'every'`` includes the closing blocks; or ``'none'``.
        reparameterise: Whether token mixers have branches in training, as published, and not just a depthwise 3x3.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    first_version: bool = False
    se: str = 'alternate'
    reparameterise: bool = True


#: Values of :attr:`ArchSpec.se`.
SE = ('none', 'every', 'alternate')

#: Name -> widths and depths. RepViT, CVPR 2024 (https://arxiv.org/abs/2307.09283): m0_6 to m2_3 are from the final
#: paper, m1, m2 and m3 from its first version.
ARCHS: dict[str, ArchSpec] = {
    'm0_6': ArchSpec((40, 80, 160, 320), (1, 1, 8, 1)),
    'm0_9': ArchSpec((48, 96, 192, 384), (2, 2, 14, 2)),
    'm1_0': ArchSpec((56, 112, 224, 448), (2, 2, 14, 2)),
    'm1_1': ArchSpec((64, 128, 256, 512), (2, 2, 12, 2)),
    'm1_5': ArchSpec((64, 128, 256, 512), (4, 4, 24, 4)),
    'm2_3': ArchSpec((80, 160, 320, 640), (6, 6, 34, 2)),
    'm1': ArchSpec((48, 96, 192, 384), (2, 2, 14, 2), first_version=True),
    'm2': ArchSpec((64, 128, 256, 512), (2, 2, 12, 2), first_version=True),
    'm3': ArchSpec((64, 128, 256, 512), (4, 4, 18, 2), first_version=True),
}

#: Names of SAM's image encoders.
SAM_ENCODERS = (*(f'repvit_{arch}' for arch in ARCHS), 'vit_b', 'vit_l', 'vit_h', 'mobile_sam', 'edge_sam')


def get_arch(arch: str | Mapping) -> ArchSpec:
    """Look up a published architecture, or check one given as a dict.

    Args:
        arch: A name of :data:`ARCHS`, or a dict with ``widths`` and ``depths`` (positive integers, equally many, the
            first width even) and optionally the other fields of :class:`ArchSpec`.

    Raises:
        ConfigError: For an unknown name, a missing or unknown key, or invalid values.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ConfigError(f'arch={arch!r} is not a known architecture; choose one of {", ".join(ARCHS)}, '
                              'or give dict(widths=..., depths=...)')
        return ARCHS[arch]
    if not isinstance(arch, Mapping):
        raise ConfigError(f'arch must be a name or a dict of widths and depths, got {type(arch).__name__}')
    if unknown := set(arch) - set(ArchSpec._fields):
        raise ConfigError(f'arch has unknown keys {sorted(unknown)}; valid are {", ".join(ArchSpec._fields)}')
    if missing := {'widths', 'depths'} - set(arch):
        raise ConfigError(f'arch lacks {sorted(missing)}; a dict must have widths and depths')
    for key in ('widths', 'depths'):
        # Far larger ones would take all memory before torch refuses them.
        if not isinstance(arch[key], list | tuple) or not all(isinstance(n, int) and 0 < n <= 4096 for n in arch[key]):
            raise ConfigError(f'arch needs a list of {key}, a number from 1 to 4096 for each stage, got {arch[key]!r}')
    spec = ArchSpec(**{**arch, 'widths': tuple(arch['widths']), 'depths': tuple(arch['depths'])})
    if not spec.widths or len(spec.widths) != len(spec.depths):
        raise ConfigError(f'arch needs as many widths as depths, got {spec.widths} and {spec.depths}')
    if spec.widths[0] % 2:
        raise ConfigError(f'the first width must be even (the stem starts at half of it), got {spec.widths[0]}')
    if spec.se not in SE:
        raise ConfigError(f'arch has se={spec.se!r}; choose one of {", ".join(SE)}')
    return spec


def out_channels(arch: str | Mapping, out_indices: Sequence[int] = (0, 1, 2, 3)) -> list[int]:
    """Channels of the maps that a RepViT returns, to save typing them in configs.

    Args:
        arch: As for :func:`get_arch`.
        out_indices: The stages whose maps are returned, as for :class:`repvit_mm.RepViT`.

    Raises:
        ConfigError: If ``arch`` is not a known architecture, or lacks one of the stages.

    Example:
        >>> from repvit_mm import out_channels
        >>> out_channels('m1_1', out_indices=(1, 2, 3))
        [128, 256, 512]
    """
    widths = get_arch(arch).widths
    if not isinstance(out_indices, list | tuple):
        raise ConfigError(f'out_indices={out_indices!r} must be a list of the stages whose maps are returned')
    if unknown := [i for i in out_indices if i not in range(len(widths))]:
        raise ConfigError(f'out_indices={tuple(out_indices)}: {arch} has no stages {unknown}, expected numbers from '
                          f'{tuple(range(len(widths)))}')
    return [widths[i] for i in out_indices]
