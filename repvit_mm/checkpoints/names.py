"""Names of RepViT's tensors in every published format, as tables."""
import re
from collections import Counter
from collections.abc import Iterable, Iterator

#: The columns of the tables below. ``official`` are the names of the authors' code for classification, detection,
#: segmentation and RepViT-SAM; the paper's final and first version use different rows.
NAME_FORMATS = ('repvit_mm', 'official', 'timm')

# Parts of a layer, one row each. A layer that is fused, or has no normalisation, has no parts.
_PLAIN = (('', '', ''),)
_CONV_BN = (('.conv', '.c', '.c'), ('.norm', '.bn', '.bn'), *_PLAIN)
_BN_LINEAR = (('.norm', '.bn', '.bn'), ('.linear', '.l', '.l'))

# Layers of a module, one row each, in the order of the state dicts.
_STEM = (
    (('stem.conv1', 'features.0.0', 'stem.conv1'), _CONV_BN),
    (('stem.conv2', 'features.0.2', 'stem.conv2'), _CONV_BN),
)
_DOWNSAMPLE = (
    (('.spatial', '.token_mixer.0', '.spatial_downsample'), _CONV_BN),
    (('.channel', '.token_mixer.2', '.channel_downsample'), _CONV_BN),
    (('.channel_mixer.conv1', '.channel_mixer.m.0', '.ffn.conv1'), _CONV_BN),
    (('.channel_mixer.conv2', '.channel_mixer.m.2', '.ffn.conv2'), _CONV_BN),
)
_BLOCK = (
    (('.token_mixer.dw3x3', '.token_mixer.0.conv', '.token_mixer.conv'), _CONV_BN),
    (('.token_mixer.dw1x1', '.token_mixer.0.conv1', '.token_mixer.conv1'), _CONV_BN),
    (('.token_mixer.norm', '.token_mixer.0.bn', '.token_mixer.bn'), _PLAIN),  # final version only
    (('.token_mixer', '.token_mixer.0', '.token_mixer'), _PLAIN),  # fused
    (('.se.fc1', '.token_mixer.1.fc1', '.se.fc1'), _PLAIN),
    (('.se.fc2', '.token_mixer.1.fc2', '.se.fc2'), _PLAIN),
    (('.channel_mixer.conv1', '.channel_mixer.m.0', '.channel_mixer.conv1'), _CONV_BN),
    (('.channel_mixer.conv2', '.channel_mixer.m.2', '.channel_mixer.conv2'), _CONV_BN),
)
_HEAD = (
    (('head.fc', 'classifier.classifier', 'head.head'), _BN_LINEAR),
    (('head.fc_dist', 'classifier.classifier_dist', 'head.head_dist'), _BN_LINEAR),
    (('head.fc', 'classifier', 'head'), _PLAIN),  # fused: the mean of both
    # The neck of RepViT-SAM has the same names in all formats, and takes the place of a classifier.
    *(((f'neck.{layer}',) * len(NAME_FORMATS), _PLAIN) for layer in range(4)),
)


def renames(old: str, new: str, blocks: tuple[int, ...]) -> dict[str, str]:
    """Old name -> new name, for every module that a backbone can have, fused or not."""
    return dict(zip(_modules(old, blocks), _modules(new, blocks), strict=True))


def _modules(format: str, blocks: tuple[int, ...]) -> Iterator[str]:
    """Every module of a backbone that can hold tensors, in the order of its state dict."""
    yield from _expand(_STEM, format)
    number = 0  # the official names' index
    for stage, count in enumerate(blocks):
        for block in range(-1 if stage else 0, count):
            number += 1
            closing = block == count - 1 and stage < len(blocks) - 1
            if format == 'official':
                place = f'features.{number}'
            elif block < 0:
                place = f'stages.{stage}.downsample'
            elif format == 'timm' and closing:
                place = f'stages.{stage + 1}.downsample.pre_block'
            else:
                place = f'stages.{stage}.blocks.{block}'
            yield from (place + module for module in _expand(_DOWNSAMPLE if block < 0 else _BLOCK, format))


def head_modules(format: str) -> list[str]:
    """Every module of a classifier, or of RepViT-SAM's neck, that can hold tensors."""
    return list(_expand(_HEAD, format))


def _expand(layers: tuple, format: str) -> Iterator[str]:
    column = NAME_FORMATS.index(format)
    for names, parts in layers:
        yield from (names[column] + part[column] for part in parts)


def count_blocks(names: Iterable[str], format: str) -> tuple[int, ...]:
    """Blocks of each stage, with the closing one, without the downsampling; numbers have at most three digits."""
    def numbers(pattern: str) -> set[tuple[int, ...]]:
        return {tuple(map(int, match.groups())) for name in names if (match := re.match(pattern, name))}

    if format == 'official':  # numbered across stages; downsampling blocks have a third layer in the token mixer
        downsamples = numbers(r'features\.(\d{1,3})\.token_mixer\.2\.') - {(1,)}
        blocks = numbers(r'features\.(\d{1,3})\.channel_mixer\.') - downsamples
        places = {(sum(downsample < block for downsample in downsamples), block) for block in blocks}
    else:
        places = numbers(r'stages\.(\d{1,3})\.blocks\.(\d{1,3})\.')
        if format == 'timm':  # has the closing block of a stage in the next stage
            places |= {(stage - 1, -1) for stage, in numbers(r'stages\.(\d{1,3})\.downsample\.pre_block\.')}
    counts = Counter(stage for stage, _ in places)
    return tuple(counts[stage] for stage in range(max(counts) + 1))
