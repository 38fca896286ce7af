"""Checkpoints of every published format through the loaders of torch and mmengine."""
import logging
from collections.abc import MutableMapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import CheckpointError
from .formats import find_backbones, is_head, rename, unify


def adapt_names(module: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Convert the names of a state dict that is being loaded into a RepViT to ours, in place.

    A RepViT calls this from its ``_load_from_state_dict``, so torch's ``load_state_dict`` and mmengine's runners accept
    the published names, too. Tensors of a classifier or of stages that were not built are dropped. Missing and
    unexpected tensors are left for the loader to report.

    Args:
        module: The RepViT.
        state_dict: Name -> tensor, also of other modules.
        prefix: Prefix of this module's names.

    Raises:
        CheckpointError: If the tensors are for another architecture.
    """
    own = [name for name in state_dict if name.startswith(prefix)]
    inside = unify({name[len(prefix):]: state_dict[name] for name in own})
    found = next((found for found in find_backbones(inside) if found.root == ''), None)
    if found is None:
        return
    source = f'the checkpoint under {prefix!r}' if prefix else 'the checkpoint'
    bare, (theirs,) = rename({name: value for name, value in inside.items()
                              if not (found.has_head and is_head(name, '', found.format))},
                             [found._replace(has_head=False)])
    wanted = module.state_dict()
    ours, = find_backbones(wanted)
    theirs.check_fits(ours, source)
    if theirs.fused and not ours.fused:
        print_log(f'{source} is fused: it works in evaluation mode, but lacks the statistics that training needs',
                  logger='current', level=logging.WARNING)
    for name in own:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in bare.items()
                       if name in wanted or not ours.arch.lacks(name)})


def refuse_random_start(module: nn.Module, incompatible_keys: Any) -> None:
    """Raise if mmengine loads a checkpoint that has no tensor for a RepViT.

    This is a hook for ``register_load_state_dict_post_hook``. torch's own loader raises or returns the missing names;
    mmengine's only logs them and would train from random weights.

    Args:
        module: The RepViT.
        incompatible_keys: Missing and unexpected names, from the loader.

    Raises:
        CheckpointError: See above.
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
