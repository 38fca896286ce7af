"""Load checkpoints of every published format into models, completely or with a clear error."""
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from ..errors import CheckpointError, shortened
from .formats import FoundBackbone, find_backbones, find_in, is_head, rename
from .forms import to_own_form
from .reading import check_finite, read_checkpoint, tensors_of

#: Prefixes of RepViT-SAM's other parts beside the image encoder.
SAM_DECODER = ('prompt_encoder.', 'mask_decoder.')
#: Pairs of a backbone in the file and one in the model.
Pairs = list[tuple[FoundBackbone, FoundBackbone]]


class LoadReport(NamedTuple):
    """The result of loading a checkpoint. Names are those of the model.

    Attributes:
        source: Origin of the checkpoint.
        found: Its backbone: the format of its names and its architecture.
        taken: Number of tensors of the model that were loaded.
        total: Number of tensors of the model.
        not_needed: Tensors of the checkpoint for known parts that the model does not have.
        missing: Tensors of the model that the checkpoint lacks; their values do not change.
        unexpected: Other tensors of the checkpoint that the model does not have.
        mismatched: Tensors with another shape or kind of dtype in the checkpoint; their values do not change.
    """

    source: str
    found: FoundBackbone
    taken: int
    total: int
    not_needed: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def problems(self) -> str:
        """Everything that did not fit, for a message; empty if everything fitted."""
        kinds = {'missing': self.missing, 'of another shape': self.mismatched, 'unexpected': self.unexpected}
        return ', '.join(f'{len(names)} {kind} ({shortened(names, 3)})' for kind, names in kinds.items() if names)

    def __str__(self) -> str:
        line = f'loaded {self.taken} of {self.total} tensors from {self.source} ({self.found}, {self.found.arch})'
        return line + (f'; {len(self.not_needed)} more are not needed' if self.not_needed else '')


def load_checkpoint(model: nn.Module, path_or_name: str | Path, strict: bool = True,
                    trust: bool = False) -> LoadReport:
    """Load a checkpoint of any published format into a model that holds a RepViT.

    The model can be a bare backbone, for which the rest of the file is ignored, or a classifier, detector or
    segmentor. After an error, the model is unchanged.

    A fused checkpoint can be loaded into an unfused model in evaluation mode, which then gives the fused outputs, but
    not the reverse.

    Args:
        model: The model to load into.
        path_or_name: A file, ``repvit://NAME`` (see :func:`repvit_mm.checkpoints.published`), or an address; see
            :func:`repvit_mm.checkpoints.read_checkpoint`. In the authors', timm's or our names.
        strict: Require every tensor of the model with its shape, and allow no others except for known parts
            that the model does not have. If False, fitting tensors are loaded and others logged, provided that the
            architectures are the same and some tensors of the backbone fit.
        trust: Run code from the file if it needs that; see :func:`repvit_mm.checkpoints.read_checkpoint`.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: If the file cannot be downloaded or read, is for another architecture, or does not fit.

    Example:
        >>> import repvit_mm
        >>> model = repvit_mm.RepViT('m1_1')
        >>> repvit_mm.load_checkpoint(model, 'repvit://m1_1_distill_300e')  # doctest: +SKIP
    """
    return load_into(model, read_checkpoint(path_or_name, trust), str(path_or_name), strict)


def load_into(model: nn.Module, checkpoint: Any, source: str, strict: bool = True, prefix: str = '') -> LoadReport:
    """Do :func:`load_checkpoint` with a checkpoint that is already read.

    Args:
        model: The model to load into.
        checkpoint: A result of :func:`repvit_mm.checkpoints.read_checkpoint`, or a state dict.
        source: Its origin, for messages.
        strict: See :func:`load_checkpoint`.
        prefix: Load only tensors whose names start with this.
    """
    while is_model_wrapper(model):
        model = model.module
    wanted = model.state_dict()
    tensors = tensors_of(checkpoint, source, prefix)
    found = find_in(tensors, source)
    tensors, backbones = rename(tensors, found, source=source)
    pairs = _pair(backbones, find_backbones(wanted), source)
    for theirs, ours in pairs:
        theirs.check_fits(ours, source)
    if model.training and any(theirs.fused and not ours.fused for theirs, ours in pairs):
        raise CheckpointError(f'{source} is fused, for inference only, but the model is in training mode: call '
                              'model.eval() first, or train from an unfused checkpoint')
    tensors = _rename_roots(tensors, pairs)
    if wanted.keys() - tensors.keys():  # fused and unfused names differ
        to_own_form(model, tensors)

    report, taken = _match(tensors, wanted, pairs, source, found[0])
    _check(report, taken, pairs, strict)
    check_finite(taken, source)
    with torch.no_grad():
        for name, value in taken.items():
            wanted[name].copy_(value)
    print_log(str(report), logger='current')
    if report.problems:
        print_log(f'{source} does not fit the model completely; not loaded: '
                  f'{report.problems}', logger='current', level=logging.WARNING)
    return report


def load_other(model: nn.Module, tensors: Mapping[str, Tensor], source: str, strict: bool = True) -> None:
    """Load into a model without a RepViT, whose names are its own; see :func:`load_into`."""
    check_finite(tensors, source)
    try:
        load_state_dict(model, tensors, strict)
    except RuntimeError as error:
        reason = ' '.join(line.strip() for line in str(error).splitlines() if line.strip())
        raise CheckpointError(f'{source} does not fit the model: {reason[:500]}') from error
    print_log(f'loaded {source}', logger='current')


def _pair(found: list[FoundBackbone], wanted: list[FoundBackbone], source: str) -> Pairs:
    """Assign the backbones of the file to those of the model."""
    if not wanted:
        raise CheckpointError(f'{source} cannot be loaded: the model holds no RepViT')
    if len(found) == len(wanted) == 1:
        return [(found[0], wanted[0])]
    by_root = {backbone.root: backbone for backbone in found}
    if all(backbone.root in by_root for backbone in wanted):
        return [(by_root[backbone.root], backbone) for backbone in wanted]
    theirs, ours = (shortened([backbone.root or 'no prefix' for backbone in side], 3) for side in (found, wanted))
    raise CheckpointError(f'{source} holds RepViTs under {theirs}, but the model under {ours}: '
                          'it is not clear which one to load')


def _rename_roots(tensors: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """Replace the prefix of the file by that of the model; names are already in our format."""
    if len(pairs) > 1:
        return dict(tensors)
    old, new = (backbone.root.split('.') for backbone in pairs[0])
    while len(old) > 1 and len(new) > 1 and old[-2] == new[-2]:  # the backbone's siblings get the new prefix, too
        del old[-2], new[-2]
    old, new = '.'.join(old), '.'.join(new)
    return {(new + name[len(old):] if name.startswith(old) else name): value
            for name, value in tensors.items()}


def _match(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], pairs: Pairs, source: str,
           found: FoundBackbone) -> tuple[LoadReport, dict[str, Tensor]]:
    """Sort the tensors into those that fit and those that do not."""
    taken, mismatched, extra = {}, [], []
    for name, value in tensors.items():
        if name not in wanted:
            extra.append(name)
        elif value.shape != wanted[name].shape:
            shapes = ('x'.join(map(str, tensor.shape)) or 'a number' for tensor in (value, wanted[name]))
            mismatched.append('{} is {} in the file, {} in the model'.format(name, *shapes))
        elif wanted[name].is_floating_point() and not value.is_floating_point():
            mismatched.append(f'{name} is {value.dtype} in the file, {wanted[name].dtype} in the model')
        else:
            taken[name] = value
    # With the usual momentum num_batches_tracked has no effect, and old files lack it.
    missing = [name for name in wanted if name not in tensors and not name.endswith('.num_batches_tracked')]
    not_needed = _not_needed(extra, wanted, pairs)
    return LoadReport(source, found, len(taken), len(wanted), tuple(name for name in extra if name in not_needed),
                      tuple(missing), tuple(name for name in extra if name not in not_needed), tuple(mismatched)), taken


def _not_needed(names: list[str], wanted: Mapping[str, Tensor], pairs: Pairs) -> set[str]:
    """Names in known parts that the model need not have."""
    not_needed = {name for name in names if name.endswith('.num_batches_tracked')}
    for theirs, ours in pairs:
        root = ours.root
        not_needed |= {name for name in names
                       if name.startswith(root) and ours.arch.lacks(name[len(root):])}
        # A classifier for a model without one: next to the backbone or, in the authors' format, inside.
        tops = [(root, 'official'), (root, 'timm')]
        if theirs.has_head and not ours.has_head:
            tops.append((root.removesuffix('backbone.'), 'repvit_mm'))
        not_needed |= {name for name in names if any(is_head(name, *top) for top in tops)}
    if not any(name.startswith(SAM_DECODER) for name in wanted):
        not_needed |= {name for name in names if name.startswith(SAM_DECODER)}
    if all(re.match(r'(stem|stages)\.', name) for name in wanted):  # a bare backbone
        not_needed |= {name for name in names if not re.match(r'(stem|stages)\.', name)}
    return not_needed


def _check(report: LoadReport, taken: Mapping[str, Tensor], pairs: Pairs, strict: bool) -> None:
    roots = tuple(ours.root for _, ours in pairs)
    if not any(name.startswith(roots) for name in taken):
        raise CheckpointError(f'{report.source} has no tensors that fit the backbone: {report.problems}')
    if strict and report.problems:
        hint = ''
        if '' not in roots and all(name.startswith(roots) for name in taken):
            hint = '; it fits the backbone only, so give it in the init_cfg of the backbone'
        raise CheckpointError(f'{report.source} does not fit the model: of {report.total} tensors, '
                              f'{report.problems}{hint}')
