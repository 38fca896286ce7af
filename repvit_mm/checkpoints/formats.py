"""Find RepViTs in state dicts of every published format, and convert between the formats."""
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..archs import ARCHS
from ..errors import CheckpointError
from .names import NAME_FORMATS, count_blocks, head_modules, renames

# The first 1x1 convolution of the first block is part of every RepViT, fused or not, complete or not.
_ANCHOR = re.compile(r'(?P<root>|.*\.)'
                     r'(?:features\.1\.channel_mixer\.m\.0|stages\.0\.blocks\.0\.channel_mixer\.conv1)'
                     r'(?P<part>\.c|\.conv|)\.weight')
_MOST_BACKBONES = 32
#: Names that stand for others: prefixes of parallel training and torch.compile, and stages in timm's models with
#: ``features_only=True``, and so in EdgeTAM.
_VARIANTS = ((re.compile(r'^(?:(?:module|_orig_mod)\.)+'), ''),
             (re.compile(r'(^|\.)stages_(\d{1,3})\.'), r'\1stages.\2.'))


class FoundArch(NamedTuple):
    """Architecture of a RepViT, read from its tensors.

    Attributes:
        widths: Channels of each existing stage.
        blocks: Blocks of each stage, with the closing one, without the downsampling.
        first_version: Whether its blocks are those of the paper's first version; None if it is fused, as both versions
            are then the same.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    first_version: bool | None

    @property
    def names(self) -> list[str]:
        """The published architectures that it matches; several if it is fused or lacks stages."""
        return [name for name, spec in ARCHS.items() if self.fits(FoundArch(
            spec.widths, (*(depth + 1 for depth in spec.depths[:-1]), spec.depths[-1]), spec.first_version))]

    def fits(self, other: 'FoundArch') -> bool:
        """Whether both agree on their common stages; the shorter one may lack the closing block of its last stage."""
        if {self.first_version, other.first_version} >= {True, False}:
            return False
        short, long = sorted((self, other), key=lambda arch: len(arch.widths))
        stages = len(short.widths)
        lacking = long.blocks[stages - 1] - short.blocks[-1]
        return (short.widths == long.widths[:stages] and short.blocks[:-1] == long.blocks[:stages - 1]
                and (lacking == 0 or lacking == 1 and stages < len(long.widths)))

    def lacks(self, name: str) -> bool:
        """Whether a tensor belongs after the last block; ``name`` is in our format, without a prefix."""
        match = re.match(r'stages\.(\d+)\.(?:blocks\.(\d+)\.)?', name)
        if match is None:
            return False
        stage, block = int(match[1]), int(match[2] or 0)
        return stage >= len(self.blocks) or block >= self.blocks[stage]

    def __str__(self) -> str:
        version = ' of the first version' if self.first_version else ''
        return ' or '.join(self.names) or f'a RepViT{version} with {self.blocks} blocks of widths {self.widths}'


class FoundBackbone(NamedTuple):
    """A RepViT in a state dict.

    Attributes:
        root: Prefix of its names: ``''``, ``'backbone.'``, ``'image_encoder.'``, ...
        format: One of :data:`NAME_FORMATS`.
        fused: Whether its BatchNorms are folded into the convolutions.
        arch: Its architecture.
        has_head: Whether the state dict also has its classifier or RepViT-SAM's neck.
    """

    root: str
    format: str
    fused: bool
    arch: FoundArch
    has_head: bool

    def check_fits(self, built: 'FoundBackbone', source: str) -> None:
        """Raise a CheckpointError if the backbone ``built`` cannot take the weights of this one from ``source``."""
        if not self.arch.fits(built.arch):
            raise CheckpointError(f'{source} holds the weights of {self.arch}, but the model is {built.arch}')
        if built.fused and not self.fused:
            raise CheckpointError(f'{source} is not fused, but the model is: build it without deploy=True, load the '
                                  'weights, then call fuse()')

    def lacks(self, name: str) -> bool:
        """Whether a tensor is for a stage that this backbone of a model has not built, or a classifier inside of it."""
        inside = name.removeprefix(self.root)
        return name.startswith(self.root) and (self.arch.lacks(inside) or any(
            is_head(inside, '', format) for format in ('official', 'timm')))

    def __str__(self) -> str:
        version = ' of the first version' if self.arch.first_version else ''
        return f'{self.format} names{version}{", fused" if self.fused else ""}'


def unify(state_dict: Mapping[str, Tensor], source: str | Path = 'the checkpoint') -> 'OrderedDict[str, Tensor]':
    """Drop ``module.`` and ``_orig_mod.`` at the start of names, and rename stages of timm's ``features_only``.

    Keeps ``_metadata``.
    """
    def unified(name: str) -> str:
        for pattern, replacement in _VARIANTS:
            name = pattern.sub(replacement, name)
        return name

    return _renamed(state_dict, unified, f'two tensors of {source} have the same name once prefixes such as "module." '
                                         'are dropped')


def _renamed(state_dict: Mapping[str, Tensor], rename: Callable[[str], str], clash: str) -> 'OrderedDict[str, Tensor]':
    renamed = OrderedDict((rename(name), value) for name, value in state_dict.items())
    if len(renamed) != len(state_dict):
        raise CheckpointError(clash)
    if hasattr(state_dict, '_metadata'):
        renamed._metadata = state_dict._metadata
    return renamed


def find_backbones(state_dict: Mapping[str, Tensor], source: str | Path = 'the checkpoint') -> list[FoundBackbone]:
    """Find every RepViT in a state dict, in any format and under any prefix.

    Args:
        state_dict: Name -> tensor, without prefixes of wrappers.
        source: Its origin, for errors.

    Raises:
        CheckpointError: If there are implausibly many: each one is looked for among all names.
    """
    anchors = [anchor for name in state_dict if (anchor := _ANCHOR.fullmatch(name))]
    if len(anchors) > _MOST_BACKBONES:
        raise CheckpointError(f'{source} has the names of {len(anchors)} RepViTs, at most {_MOST_BACKBONES} are '
                              'supported')
    return [_describe(anchor, state_dict) for anchor in anchors]


def find_in(state_dict: Mapping[str, Tensor], source: str | Path = 'the checkpoint') -> list[FoundBackbone]:
    """Call :func:`find_backbones`, and expect at least one.

    Raises:
        CheckpointError: If there is none.
    """
    found = find_backbones(state_dict, source)
    if not found:
        some = ', '.join(list(state_dict)[:3])
        raise CheckpointError(f'{source}: none of its {len(state_dict)} tensors has a name of RepViT ({some}, ...)')
    return found


def convert_state_dict(state_dict: Mapping[str, Tensor], to: str = 'repvit_mm') -> 'OrderedDict[str, Tensor]':
    """Rename the tensors of a checkpoint; the tensors themselves and their order do not change.

    Everything but RepViT and its classifier (necks, heads, decoders) keeps its names. The backbone of a classification
    model is under ``backbone.`` in our format, and without a prefix in the others.

    Args:
        state_dict: Name -> tensor, in any format: a bare backbone, a classification model, or a whole
            detector, segmentor or RepViT-SAM with a RepViT under any prefix.
        to: One of :data:`NAME_FORMATS`.

    Returns:
        The same tensors under their new names.

    Raises:
        CheckpointError: If it holds no RepViT, or two tensors would get the same name.

    Example:
        >>> from repvit_mm import RepViT, convert_state_dict
        >>> list(convert_state_dict(RepViT('m1_1').state_dict(), to='official'))[0]
        'features.0.0.c.weight'
    """
    state_dict = unify(state_dict)
    return rename(state_dict, find_in(state_dict), to)[0]


def rename(state_dict: Mapping[str, Tensor], backbones: Iterable[FoundBackbone], to: str = 'repvit_mm',
           source: str | Path = 'the checkpoint') -> 'tuple[OrderedDict[str, Tensor], list[FoundBackbone]]':
    """Do :func:`convert_state_dict` for backbones that are already found.

    Args:
        state_dict: Name -> tensor, without prefixes of wrappers.
        backbones: Its backbones, from :func:`find_backbones`.
        to: One of :data:`NAME_FORMATS`.
        source: Its origin, for errors.

    Returns:
        The tensors under their new names, and the backbones in the new format.

    Raises:
        CheckpointError: If two tensors would get the same name.
    """
    if to not in NAME_FORMATS:
        raise CheckpointError(f'to={to!r} is not a known format; choose one of {", ".join(NAME_FORMATS)}')
    modules, results = {}, []
    for found in backbones:
        new_root = found.root
        if found.has_head:
            top = found.root.removesuffix('backbone.')
            new_root = top + 'backbone.' if to == 'repvit_mm' else top
            heads = zip(head_modules(found.format), head_modules(to), strict=True)
            modules.update((top + old, top + new) for old, new in heads)
        for old, new in renames(found.format, to, found.arch.blocks).items():
            modules[found.root + old] = new_root + new
        results.append(found._replace(root=new_root, format=to))

    def renamed(name: str) -> str:
        module, dot, tensor = name.rpartition('.')
        return modules.get(module, module) + dot + tensor

    return _renamed(state_dict, renamed, f'{source} mixes formats: two of its tensors would get the same name'), results


def is_head(name: str, top: str, format: str) -> bool:
    """Whether a tensor belongs to the classifier, or SAM's neck, of the model with the prefix ``top``."""
    return name.rpartition('.')[0] in {top + module for module in head_modules(format)}


def _describe(anchor: re.Match, state_dict: Mapping[str, Tensor]) -> FoundBackbone:
    root, part = anchor['root'], anchor['part']
    inside = {name[len(root):]: value for name, value in state_dict.items() if name.startswith(root)}
    if anchor[0].startswith(root + 'features.'):
        format = 'official'
    elif part:
        format = 'timm' if part == '.c' else 'repvit_mm'
    else:  # fused names differ from timm's in the downsampling only
        format = 'timm' if any('.downsample.pre_block.' in name for name in inside) else 'repvit_mm'
    blocks = count_blocks(inside, format)
    theirs = renames('repvit_mm', format, blocks)
    branch = theirs['stages.0.blocks.0.token_mixer.dw1x1.conv']
    entries = (theirs.get(f'stages.{stage}.blocks.0.channel_mixer.conv1' + ('.conv' if part else ''))
               for stage in range(len(blocks)))
    weights = [inside.get(f'{entry}.weight') for entry in entries]
    arch = FoundArch(tuple(weight.shape[1] if weight is not None and weight.ndim == 4 else 0 for weight in weights),
                     blocks, f'{branch}.weight' in inside if part else None)
    # A classifier is next to the module `backbone` in our format, and next to the stem in the others.
    may_have_head = (format == 'repvit_mm') == bool(re.fullmatch(r'(.*\.)?backbone\.', root))
    top = root.removesuffix('backbone.')
    return FoundBackbone(root, format, not part, arch,
                         may_have_head and any(is_head(name, top, format) for name in state_dict))
