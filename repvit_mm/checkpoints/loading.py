"""Loading checkpoints of every published format into models: all that the model has, or a clear error."""
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..errors import CheckpointError, shortened
from ..fusion import to_own_form
from .formats import FoundArch, FoundBackbone, arch_of, find_backbones, find_in, is_head, rename
from .reading import check_finite, read_checkpoint, tensors_of

#: What the names of the parts start with that RepViT-SAM has beside its image encoder.
SAM_DECODER = ('prompt_encoder.', 'mask_decoder.')
#: A backbone of the file, and the one of the model that it goes into.
Pairs = list[tuple[FoundBackbone, FoundBackbone]]


class LoadReport(NamedTuple):
    """What came of loading a checkpoint. Names are the model's.

    Attributes:
        source: Where the checkpoint is from.
        found: The format of its names.
        arch: The architecture of its backbone.
        taken: Tensors of the model that were loaded.
        total: Tensors of the model.
        not_needed: Tensors of the checkpoint for known parts that the model does not have.
        missing: Tensors of the model that the checkpoint lacks; they keep their values.
        unexpected: Tensors of the checkpoint that the model has no place for.
        mismatched: Tensors with another shape or kind of numbers in the checkpoint; they keep their values.
    """

    source: str
    found: FoundBackbone
    arch: FoundArch
    taken: int
    total: int
    not_needed: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def problems(self) -> str:
        """Everything that did not fit, in a part of a line; empty if everything did."""
        kinds = {'missing': self.missing, 'of another shape': self.mismatched, 'unexpected': self.unexpected}
        return ', '.join(f'{len(names)} {kind} ({shortened(names, 3)})' for kind, names in kinds.items() if names)

    def __str__(self) -> str:
        line = f'took {self.taken} of {self.total} tensors from {self.source} ({self.found}, {self.arch})'
        return line + (f'; {len(self.not_needed)} more are not needed' if self.not_needed else '')


def load_checkpoint(model: nn.Module, path_or_name: str | Path, strict: bool = True,
                    trust: bool = False) -> LoadReport:
    """Load a checkpoint of any published format into a model that holds a RepViT.

    The model may be the backbone alone, which is picked out of whatever the file holds, or a classifier,
    detector or segmentor. If an error is raised, the model is as it was.

    A fused checkpoint fits a model with BatchNorms that is in evaluation mode, and gives the outputs of the fused one;
    a fused model takes a checkpoint with BatchNorms.

    Args:
        model: Where the tensors go.
        path_or_name: A file, ``repvit://NAME`` (see :func:`repvit_mm.checkpoints.published`), or an address; see
            :func:`repvit_mm.checkpoints.read_checkpoint`. Official, timm's and our names are understood.
        strict: Every tensor of the model must be in the file with its shape, and the file may hold nothing
            else but known parts that the model does not have. Otherwise what fits is taken and the rest is
            logged, as long as the backbone is of the same architecture and takes something.
        trust: Run code from the file if it needs that; see :func:`repvit_mm.checkpoints.read_checkpoint`.

    Returns:
        What was loaded; the same is logged.

    Raises:
        CheckpointError: If the file cannot be had or read, is for another architecture, or does not fit.

    Example:
        >>> import repvit_mm
        >>> model = repvit_mm.RepViT('m1_1')
        >>> repvit_mm.load_checkpoint(model, 'repvit://m1_1_distill_300e')  # doctest: +SKIP
    """
    return load_into(model, read_checkpoint(path_or_name, trust), str(path_or_name), strict)


def load_into(model: nn.Module, checkpoint: Any, source: str, strict: bool = True, prefix: str = '') -> LoadReport:
    """Do :func:`load_checkpoint` with a checkpoint that has been read already.

    Args:
        model: Where the tensors go.
        checkpoint: What :func:`repvit_mm.checkpoints.read_checkpoint` returned, or a state dict.
        source: Where it is from, for messages.
        strict: See :func:`load_checkpoint`.
        prefix: What the names of the tensors that are wanted start with.
    """
    while is_model_wrapper(model):
        model = model.module
    wanted = model.state_dict()
    tensors = tensors_of(checkpoint, source, prefix)
    found = find_in(tensors, source)
    tensors, backbones = rename(tensors, found, source=source)
    pairs = _pair(backbones, find_backbones(wanted), source)
    arch = check_arch(tensors, wanted, pairs, source)
    if model.training and any(theirs.fused and not ours.fused for theirs, ours in pairs):
        raise CheckpointError(f'{source} is fused, for inference only, and the model is in training mode: call '
                              'model.eval() first, or train from a checkpoint that is not fused')
    tensors = _rename_roots(tensors, pairs)
    if wanted.keys() - tensors.keys():  # it may have them in another form
        to_own_form(model, tensors)

    report = LoadReport(source, found[0], arch, 0, len(wanted), (), (), (), ())
    report, taken = _match(tensors, wanted, pairs, report)
    _check(report, taken, pairs, strict)
    check_finite(taken, source)
    with torch.no_grad():
        for name, value in taken.items():
            wanted[name].copy_(value)
    print_log(str(report), logger='current')
    if report.problems:
        print_log(f'{source} does not fit the model everywhere, and what it does not fit stays as it was: '
                  f'{report.problems}', logger='current', level=logging.WARNING)
    return report


def check_arch(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], pairs: Pairs, source: str) -> FoundArch:
    """Tell the architecture of the file.

    Raises:
        CheckpointError: If the model is of another one.
    """
    for theirs, ours in pairs:
        arch, built = arch_of(tensors, theirs), arch_of(wanted, ours)
        if not arch.fits(built):
            raise CheckpointError(f'{source} holds the weights of {arch}, and the model is {built}')
    return arch


def is_unbuilt(name: str, backbone: FoundBackbone) -> bool:
    """Whether a tensor lies behind the last block of ``backbone``; ``name`` is ours, and relative to it."""
    match = re.match(r'stages\.(\d+)\.(?:blocks\.(\d+)\.)?', name)
    if match is None:
        return False
    stage, block = int(match[1]), int(match[2] or 0)
    return stage >= len(backbone.blocks) or block >= backbone.blocks[stage]


def _pair(found: list[FoundBackbone], wanted: list[FoundBackbone], source: str) -> Pairs:
    """Which backbone of the file goes into which one of the model."""
    if not wanted:
        raise CheckpointError(f'{source} cannot be loaded: the model holds no RepViT')
    if len(found) == len(wanted) == 1:
        return [(found[0], wanted[0])]
    by_root = {backbone.root: backbone for backbone in found}
    if all(backbone.root in by_root for backbone in wanted):
        return [(by_root[backbone.root], backbone) for backbone in wanted]
    theirs, ours = (shortened([backbone.root or 'no prefix' for backbone in side], 3) for side in (found, wanted))
    raise CheckpointError(f'{source} holds RepViTs under {theirs}, and the model under {ours}: '
                          'it is not clear which one goes where')


def _rename_roots(tensors: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """Bring the names of the file, which are ours already, under the prefix of the model."""
    if len(pairs) > 1:
        return dict(tensors)
    old, new = (backbone.root.split('.') for backbone in pairs[0])
    while len(old) > 1 and len(new) > 1 and old[-2] == new[-2]:  # what is beside the backbone moves with it
        del old[-2], new[-2]
    old, new = '.'.join(old), '.'.join(new)
    return {(new + name[len(old):] if name.startswith(old) else name): value
            for name, value in tensors.items()}


def _match(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], pairs: Pairs,
           report: LoadReport) -> tuple[LoadReport, dict[str, Tensor]]:
    """Sort the tensors into those that fit and those that do not."""
    taken, mismatched, extra = {}, [], []
    for name, value in tensors.items():
        if name not in wanted:
            extra.append(name)
        elif value.shape != wanted[name].shape:
            mismatched.append(f'{name} is {_shape(value)} in the file, {_shape(wanted[name])} in the model')
        elif wanted[name].is_floating_point() and not value.is_floating_point():
            mismatched.append(f'{name} is {value.dtype} in the file, {wanted[name].dtype} in the model')
        else:
            taken[name] = value
    # With the usual momentum nothing depends on a BatchNorm's count of batches, and old files lack it.
    missing = [name for name in wanted if name not in tensors and not name.endswith('.num_batches_tracked')]
    not_needed = _not_needed(extra, wanted, pairs)
    return report._replace(
        taken=len(taken), not_needed=tuple(name for name in extra if name in not_needed), missing=tuple(missing),
        unexpected=tuple(name for name in extra if name not in not_needed), mismatched=tuple(mismatched)), taken


def _not_needed(names: list[str], wanted: Mapping[str, Tensor], pairs: Pairs) -> set[str]:
    """Those that belong to parts that the model does not have for good reasons."""
    not_needed = {name for name in names if name.endswith('.num_batches_tracked')}
    for theirs, ours in pairs:
        root = ours.root
        not_needed |= {name for name in names
                       if name.startswith(root) and is_unbuilt(name[len(root):], ours)}
        # A classifier for a model without one, beside the backbone or, as the authors build it, inside.
        tops = [(root, 'official'), (root, 'timm')]
        if theirs.has_head and not ours.has_head:
            tops.append((root.removesuffix('backbone.'), 'repvit_mm'))
        not_needed |= {name for name in names if any(is_head(name, *top) for top in tops)}
    if not any(name.startswith(SAM_DECODER) for name in wanted):
        not_needed |= {name for name in names if name.startswith(SAM_DECODER)}
    if all(re.match(r'(stem|stages)\.', name) for name in wanted):  # a backbone alone
        not_needed |= {name for name in names if not re.match(r'(stem|stages)\.', name)}
    return not_needed


def _check(report: LoadReport, taken: Mapping[str, Tensor], pairs: Pairs, strict: bool) -> None:
    roots = tuple(ours.root for _, ours in pairs)
    if not any(name.startswith(roots) for name in taken):
        raise CheckpointError(f'{report.source} has nothing that fits the backbone: {report.problems}')
    if strict and report.problems:
        hint = 'strict=False takes what fits'
        if '' not in roots and all(name.startswith(roots) for name in taken):
            hint = f'it fits the backbone alone, for which init_cfg is the place; {hint}'
        raise CheckpointError(f'{report.source} does not fit the model: of {report.total} tensors, '
                              f'{report.problems}; {hint}')


def _shape(value: Tensor) -> str:
    return 'x'.join(map(str, value.shape)) or 'a number'
