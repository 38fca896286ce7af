"""What makes the loaders of torch and of mmengine take the published checkpoints."""
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError
from .download import SCHEME, fetch
from .formats import convert_state_dict, detect, find_backbones, is_head
from .fusing import fuse_tensors
from .loading import check_arch, is_unbuilt
from .reading import read_checkpoint, tensors_of


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_repvit(filename: str, map_location: Any = None) -> dict:
    """Read a published checkpoint for mmengine, which then takes ``load_from='repvit://m1_1_coco'``.

    Args:
        filename: ``repvit://NAME``.
        map_location: Without effect, the tensors are in main memory; whatever model takes them copies them.

    Returns:
        A dict with the weights under ``state_dict``, in our names.

    Raises:
        CheckpointError: If the name is unknown, or the file cannot be had or read.
    """
    checkpoint = read_checkpoint(fetch(filename))
    return {'state_dict': convert_state_dict(tensors_of(checkpoint, filename)), 'meta': checkpoint.get('meta', {})}


def adapt_incoming(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, strict: bool) -> None:
    """Make what is about to be loaded into a RepViT, by whatever means, fit it; in place.

    A RepViT calls this from its ``_load_from_state_dict``, so that torch's ``load_state_dict`` and mmengine's
    runners take the published names, too. Names become ours, and tensors of a classifier or of stages that were
    not built are dropped.

    Args:
        module: The RepViT.
        state_dict: Name -> tensor, not only of this module.
        prefix: What the names of its tensors start with.
        strict: Whether everything has to fit (mmengine always says so): then raise where nothing does.

    Raises:
        CheckpointError: If ``strict``, and no tensor is for the backbone, or it is of another architecture.
    """
    inside = {name[len(prefix):]: value for name, value in state_dict.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    found = next((found for found in find_backbones(inside) if found.root == ''), None)
    if found is None:
        if strict and not inside.keys() & wanted.keys():
            place = f' under {prefix!r}' if prefix else ''
            raise CheckpointError(
                f'no tensor of the checkpoint is for the RepViT{place}; repvit_mm.load_checkpoint and init_cfg find '
                'it in files of any layout, and tools/convert_checkpoint.py brings a file into ours')
        return
    source = f'the checkpoint under {prefix!r}' if prefix else 'the checkpoint'
    bare = convert_state_dict({name: value for name, value in inside.items()
                               if not (found.has_head and is_head(name, '', found.format))})
    ours = detect(wanted)
    if strict:
        theirs = detect(bare)
        check_arch(bare, wanted, [(theirs, ours)], source)
        if theirs.fused and not ours.fused:
            raise CheckpointError(f'{source} is fused, and the model is not: build the backbone with deploy=True, '
                                  'or use repvit_mm.load_checkpoint on a model in evaluation mode')
        if ours.fused and not theirs.fused:
            bare = fuse_tensors(bare, theirs, module, False, source)
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in bare.items()
                       if name in wanted or not is_unbuilt(name, ours)})
