"""Load checkpoints of every published format into models, completely or with a clear error."""
import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from ..errors import CheckpointError, shortened
from .formats import FoundBackbone, find_backbones, find_in, is_head, rename, unify
from .forms import to_own_form
from .reading import check_finite, read_checkpoint, tensors_of

#: Prefixes of RepViT-SAM's other parts beside the image encoder.
SAM_DECODER = ('prompt_encoder.', 'mask_decoder.')
_COUNTER = '.num_batches_tracked'  # without effect at the usual momentum, and old files lack it


class LoadReport(NamedTuple):
    """The result of loading a checkpoint. Names are those of the model.

    Attributes:
        source: Origin of the checkpoint.
        found: Its backbone: the format of its names and its architecture.
        taken: Number of tensors of the model that were loaded.
        total: Number of tensors of the model.
        not_needed: Tensors of the checkpoint for known parts that the model does not have.
        problems: Everything that did not fit, for a message; empty if everything fitted.
    """

    source: str
    found: FoundBackbone
    taken: int
    total: int
    not_needed: tuple[str, ...]
    problems: str

    def __str__(self) -> str:
        line = f'loaded {self.taken} of {self.total} tensors from {self.source} ({self.found}, {self.found.arch})'
        return line + (f'; {len(self.not_needed)} more are not needed' if self.not_needed else '')


def load_checkpoint(model: nn.Module, path_or_name: str | Path, strict: bool = True,
                    trust: bool = False) -> LoadReport | None:
    """Load a checkpoint of any published format into a model.

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
        The report, which is also logged; None for a model without a RepViT, whose names are its own.

    Raises:
        CheckpointError: If the file cannot be downloaded or read, is for another architecture, or does not fit.

    Example:
        >>> import repvit_mm
        >>> model = repvit_mm.RepViT('m1_1')
        >>> repvit_mm.load_checkpoint(model, 'repvit://m1_1_distill_300e')  # doctest: +SKIP
    """
    return load_into(model, read_checkpoint(path_or_name, trust), str(path_or_name), strict)


def load_into(model: nn.Module, checkpoint: Any, source: str, strict: bool = True,
              prefix: str = '') -> LoadReport | None:
    """Do :func:`load_checkpoint` with a checkpoint that is already read.

    Args:
        model: The model to load into. Without a RepViT, its names are its own, and mmengine loads it.
        checkpoint: A result of :func:`repvit_mm.checkpoints.read_checkpoint`, or a state dict.
        source: Its origin, for messages.
        strict: See :func:`load_checkpoint`.
        prefix: Load only tensors whose names start with this.

    Returns:
        The report; None for a model without a RepViT.
    """
    model = unwrapped(model)
    wanted, tensors = model.state_dict(), tensors_of(checkpoint, source, prefix)
    built = find_backbones(wanted)
    if not built:
        _load_other(model, tensors, source, strict)
        return None
    found = find_in(tensors, source)
    tensors, renamed = rename(tensors, found, source=source)
    pairs = _pair(renamed, built, source)
    for theirs, ours in pairs:
        theirs.check_fits(ours, source)
        if model.training and theirs.fused and not ours.fused:
            raise CheckpointError(f'{source} is fused, for inference only, but the model is in training mode: call '
                                  'model.eval() first, or train from an unfused checkpoint')
    if len(pairs) == 1:
        tensors = _rename_root(tensors, *pairs[0])
    if wanted.keys() - tensors.keys():  # fused and unfused names differ
        to_own_form(model, tensors)
    report, taken = _match(tensors, wanted, built, source, found[0])
    roots = tuple(backbone.root for backbone in built)
    if not any(name.startswith(roots) for name in taken):
        raise CheckpointError(f'{source} has no tensors that fit the backbone: {report.problems}')
    if strict and report.problems:
        is_backbone = '' not in roots and all(name.startswith(roots) for name in taken)
        hint = '; it fits the backbone only, so give it in the init_cfg of the backbone' if is_backbone else ''
        raise CheckpointError(f'{source} does not fit the model: of {len(wanted)} tensors, {report.problems}{hint}')
    check_finite(taken, source)
    with torch.no_grad():
        for name, value in taken.items():
            wanted[name].copy_(value)
    print_log(str(report), 'current')
    if report.problems:
        print_log(f'{source} does not fit the model; not loaded: {report.problems}', 'current', logging.WARNING)
    return report


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for distributed training and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _load_other(model: nn.Module, tensors: Mapping[str, Tensor], source: str, strict: bool) -> None:
    check_finite(tensors, source)
    try:
        load_state_dict(model, tensors, strict)
    except RuntimeError as error:
        reason = ' '.join(line.strip() for line in str(error).splitlines() if line.strip())
        raise CheckpointError(f'{source} does not fit the model: {reason[:500]}') from error
    print_log(f'loaded {source}', logger='current')


def _pair(found: list[FoundBackbone], wanted: list[FoundBackbone],
          source: str) -> list[tuple[FoundBackbone, FoundBackbone]]:
    """Assign the backbones of the file to those of the model."""
    if len(found) == len(wanted) == 1:
        return [(found[0], wanted[0])]
    by_root = {backbone.root: backbone for backbone in found}
    if all(backbone.root in by_root for backbone in wanted):
        return [(by_root[backbone.root], backbone) for backbone in wanted]
    theirs, ours = (shortened([backbone.root or 'no prefix' for backbone in side], 3) for side in (found, wanted))
    raise CheckpointError(f'{source} holds RepViTs under {theirs}, but the model under {ours}: '
                          'it is not clear which one to load')


def _rename_root(tensors: Mapping[str, Tensor], theirs: FoundBackbone, ours: FoundBackbone) -> dict[str, Tensor]:
    """Replace the prefix of the file by that of the model."""
    old, new = (backbone.root.split('.') for backbone in (theirs, ours))
    while len(old) > 1 and len(new) > 1 and old[-2] == new[-2]:  # the backbone's siblings get the new prefix, too
        del old[-2], new[-2]
    old, new = '.'.join(old), '.'.join(new)
    return {(new + name[len(old):] if name.startswith(old) else name): value for name, value in tensors.items()}


def _match(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], built: list[FoundBackbone], source: str,
           found: FoundBackbone) -> tuple[LoadReport, dict[str, Tensor]]:
    """The report, and the tensors that fit."""
    misfits = {name: text for name, value in tensors.items() if name in wanted
               and (text := _misfit(name, value, wanted[name]))}
    taken = {name: value for name, value in tensors.items() if name in wanted and name not in misfits}
    not_needed = tuple(name for name in tensors if name not in wanted and _is_not_needed(name, wanted, built))
    kinds = {'missing': [name for name in wanted if name not in tensors and not name.endswith(_COUNTER)],
             'of another shape': misfits.values(),
             'unexpected': [name for name in tensors if name not in wanted and name not in not_needed]}
    problems = ', '.join(f'{len(names)} {kind} ({shortened(names, 3)})' for kind, names in kinds.items() if names)
    return LoadReport(source, found, len(taken), len(wanted), not_needed, problems), taken


def _misfit(name: str, value: Tensor, wanted: Tensor) -> str:
    """Why a tensor cannot be loaded; empty if it can."""
    if value.shape != wanted.shape:
        shapes = ('x'.join(map(str, tensor.shape)) or 'a number' for tensor in (value, wanted))
        return '{} is {} in the file, {} in the model'.format(name, *shapes)
    if wanted.is_floating_point() and not value.is_floating_point():
        return f'{name} is {value.dtype} in the file, {wanted.dtype} in the model'
    return ''


def _is_not_needed(name: str, wanted: Mapping[str, Tensor], built: list[FoundBackbone]) -> bool:
    """Whether a tensor is for a known part that the model does not have."""
    if name.endswith(_COUNTER) or any(backbone.lacks(name) for backbone in built):
        return True
    if all(own.startswith(('stem.', 'stages.')) for own in wanted):  # the model is a bare backbone
        return not name.startswith(('stem.', 'stages.'))
    if name.startswith(SAM_DECODER):
        return not any(own.startswith(SAM_DECODER) for own in wanted)
    # A classifier beside the backbone.
    return any(not backbone.has_head and is_head(name, backbone.root.removesuffix('backbone.'), 'repvit_mm')
               for backbone in built)


def adapt_names(module: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Convert the names of a state dict that is being loaded into a RepViT to ours, in place.

    The RepViT ``module`` calls this from its ``_load_from_state_dict``, so torch's and mmengine's loaders accept the
    published names, too. Tensors of a classifier or of stages that were not built are dropped. Missing and unexpected
    tensors are left for the loader to report.

    Raises:
        CheckpointError: If the tensors are for another architecture.
    """
    own = [name for name in state_dict if name.startswith(prefix)]
    tensors = unify({name[len(prefix):]: state_dict[name] for name in own})
    found = next((found for found in find_backbones(tensors) if found.root == ''), None)
    if found is None:
        return
    source = f'the checkpoint under {prefix!r}' if prefix else 'the checkpoint'
    tensors, (theirs,) = rename(tensors, [found._replace(has_head=False)], source=source)
    wanted = module.state_dict()
    ours, = find_backbones(wanted)
    theirs.check_fits(ours, source)
    if theirs.fused and not ours.fused:
        print_log(f'{source} is fused: it works in evaluation mode, but lacks the statistics that training needs',
                  logger='current', level=logging.WARNING)
    for name in own:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in tensors.items()
                       if name in wanted or not ours.lacks(name)})


def refuse_random_start(module: nn.Module, incompatible_keys: Any) -> None:
    """Raise if mmengine loads a checkpoint that has no tensor for a RepViT.

    A hook of the RepViT ``module`` for ``register_load_state_dict_post_hook``. torch's own loader raises or returns the
    missing names; mmengine's only logs them and would train from random weights.
    """
    if not type(incompatible_keys).__module__.startswith('mmengine.'):
        return
    own = [name for name in module.state_dict() if not name.endswith('.num_batches_tracked')]
    missing = set(incompatible_keys.missing_keys)
    for prefix in (name.removesuffix(own[0]) for name in missing if name.endswith(own[0])):
        if missing.issuperset(prefix + name for name in own):
            place = f' under {prefix!r}' if prefix else ''
            raise CheckpointError(
                f'the checkpoint has no tensor for the RepViT{place}; load it with repvit_mm.load_checkpoint or '
                'init_cfg, which accept any layout, or convert it with tools/convert_checkpoint.py')
