"""Let the loaders of torch and mmengine load the published checkpoints."""
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError
from ..io.toolbox_files import decode_as_we_do, read_plain_files
from .download import RELEASE, SCHEME
from .formats import find_backbones, is_head, rename
from .loading import check_arch, is_unbuilt
from .reading import read_checkpoint, tensors_of
from .release import published


@CheckpointLoader.register_scheme(prefixes=(SCHEME, RELEASE), force=True)
def load_for_mmengine(filename: str, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine. Registered for ``repvit://``, as in ``load_from='repvit://m1_1_coco'``, and for
    the addresses of the same files.

    Args:
        filename: See :func:`repvit_mm.checkpoints.read_checkpoint`.
        map_location: Not used: tensors are on the CPU, and the model copies them to its device.
        logger: Not used.

    Returns:
        The content of the file, with the weights under ``state_dict``, those of a RepViT in our format.

    Raises:
        CheckpointError: If the name is unknown, or the file cannot be downloaded or read.
    """
    if str(filename).startswith(RELEASE):
        filename = next((f'{SCHEME}{name}' for name, file in published().items() if file.url == filename), filename)
    checkpoint = read_checkpoint(filename)
    tensors = tensors_of(checkpoint, filename)
    rest = checkpoint if isinstance(checkpoint, Mapping) else {}
    return {**{key: value for key, value in rest.items() if not isinstance(value, Tensor)},
            'state_dict': rename(tensors, find_backbones(tensors), source=filename)[0]}


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
        print_log(f'{source} is fused: it works in evaluation mode, but lacks the statistics that training needs',
                  logger='current', level=logging.WARNING)
    for name in inside:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in bare.items()
                       if name in wanted or not is_unbuilt(name, ours)})


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


def read_without_code() -> None:
    """Keep mmengine from running code from checkpoints, YAML files and pickles, and from reading pipes.

    mmcv decodes images with our reader, too. This holds for the whole process. mmengine's own loader unpickles
    whatever a file holds, for every ``init_cfg`` except a RepViT's. The tools and the Runner call this; importing
    ``repvit_mm`` alone changes neither. Python configs are programs, and are still run.
    """
    CheckpointLoader.load_checkpoint = staticmethod(load_for_mmengine)
    read_plain_files()
    decode_as_we_do()
