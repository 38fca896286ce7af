"""What makes the loaders of torch and of mmengine take the published checkpoints."""
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError
from .download import SCHEME
from .formats import find_backbones, is_head, rename
from .loading import check_arch, is_unbuilt
from .reading import read_checkpoint, tensors_of


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_for_mmengine(filename: str, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine; it is registered for ``repvit://``, so that ``load_from='repvit://m1_1_coco'``.

    Args:
        filename: See :func:`repvit_mm.checkpoints.read_checkpoint`.
        map_location: Without effect, the tensors are in main memory; whatever model takes them copies them.
        logger: Without effect.

    Returns:
        What the file holds, with the weights under ``state_dict``, a RepViT's in our names.

    Raises:
        CheckpointError: If the name is unknown, or the file cannot be had or read.
    """
    checkpoint = read_checkpoint(filename)
    tensors = tensors_of(checkpoint, filename)
    rest = checkpoint if isinstance(checkpoint, Mapping) else {}
    return {**{key: value for key, value in rest.items() if not isinstance(value, Tensor)},
            'state_dict': rename(tensors, find_backbones(tensors), source=filename)[0]}


def adapt_names(module: nn.Module, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Bring the names of what is about to be loaded into a RepViT, by whatever means, to ours; in place.

    A RepViT calls this from its ``_load_from_state_dict``, so that torch's ``load_state_dict`` and mmengine's
    runners take the published names, too. Tensors of a classifier or of stages that were not built are dropped. What
    is missing or too much is left to the loader to tell.

    Args:
        module: The RepViT.
        state_dict: Name -> tensor, not only of this module.
        prefix: What the names of its tensors start with.

    Raises:
        CheckpointError: If the tensors are of another architecture.
    """
    inside = {name[len(prefix):]: value for name, value in state_dict.items() if name.startswith(prefix)}
    found = next((found for found in find_backbones(inside) if found.root == ''), None)
    if found is None:
        return
    source = f'the checkpoint under {prefix!r}' if prefix else 'the checkpoint'
    bare, (theirs,) = rename({name: value for name, value in inside.items()
                              if not (found.has_head and is_head(name, '', found.format))},
                             [found._replace(has_head=False)])
    wanted = module.state_dict()
    ours, = find_backbones(wanted)
    check_arch(bare, wanted, [(theirs, ours)], source)
    if theirs.fused and not ours.fused:
        print_log(f'{source} is fused: the RepViT computes what it does in evaluation mode, and has lost the '
                  'statistics that a training needs', logger='current', level=logging.WARNING)
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in bare.items()
                       if name in wanted or not is_unbuilt(name, ours)})


def refuse_random_start(module: nn.Module, incompatible_keys: Any) -> None:
    """Raise if mmengine has loaded a checkpoint without a single tensor for ``module``, a RepViT.

    This is a hook of ``register_load_state_dict_post_hook``. Torch's own loader raises or returns what is missing;
    mmengine's would only log it and train on from random weights.

    Args:
        module: The RepViT.
        incompatible_keys: The loader's tuple of missing and unexpected names.

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
                f'no tensor of the checkpoint is for the RepViT{place}; repvit_mm.load_checkpoint and init_cfg find '
                'it in files of any layout, and tools/convert_checkpoint.py brings a file into ours')
