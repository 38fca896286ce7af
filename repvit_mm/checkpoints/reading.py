"""Read checkpoint files without running code from them."""
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import mmengine.runner.checkpoint
import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import CheckpointError, UserError, first_line, shortened
from ..io.files import check_regular
from ..io.toolbox_files import read_plain_files, replace_mmcv_decoder
from . import pickles
from .download import RELEASE, SCHEMES, fetch
from .files import RefusedError, kind_of, replaced
from .formats import find_backbones, rename, unify

#: Keys of the weights in checkpoints, in the order in which they are looked for: averaged weights last, since the
#: published accuracies are those of the raw weights.
WEIGHT_KEYS = ('state_dict', 'model', 'model_ema', 'state_dict_ema', 'ema_state_dict')
#: Key of ``meta`` as JSON in the metadata of our safetensors files.
METADATA = 'repvit_mm'
_MOST_DIMENSIONS = 64  # of a tensor, in torch's operators


def read_checkpoint(path_or_name: str | Path, trust: bool = False) -> Any:
    """Read a checkpoint file, onto the CPU.

    Only tensors, containers, numbers, strings, numpy arrays of these and mmengine's ``HistoryBuffer`` are read; see
    :data:`repvit_mm.checkpoints.pickles.CALLED`. A file that needs any other type is refused, because reading it could
    run code.

    Args:
        path_or_name: A file written by ``torch.save`` or safetensors, a name or address for
            :func:`repvit_mm.checkpoints.fetch`, or one with a scheme of mmengine's ``CheckpointLoader`` (``s3://``,
            ``torchvision://``, ``open-mmlab://``, ...).
        trust: Also read files that need other types, running any code in them.

    Returns:
        The saved object, usually a dict. Its ``meta`` holds numbers, strings, lists, tuples and dicts only.

    Raises:
        CheckpointError: If the file does not exist, is damaged, is not a checkpoint, or needs other types.
    """
    name = str(path_or_name)
    ours = ('', 'http://', 'https://', RELEASE, *SCHEMES)
    if any(re.match(prefix, name) for prefix in CheckpointLoader._schemes if prefix not in ours):
        return _load_by_scheme(name, lambda file: _read(file, name, trust))
    path = fetch(path_or_name)
    return _read(path, path, trust)


def _load_by_scheme(name: str, read: Callable[[Any], Any]) -> Any:
    """Load a checkpoint with mmengine's loader, but with our reader and our download over http."""
    load = CheckpointLoader._get_checkpoint_loader(name)
    try:
        with replaced(torch, 'load', lambda file, *_, **__: read(file)), \
                replaced(mmengine.runner.checkpoint, 'load_from_http', lambda url, *_, **__: read(fetch(url))):
            return load(name, map_location='cpu')
    except UserError:
        raise
    except Exception as error:  # clients of storage services can raise anything
        raise CheckpointError(f'{name} cannot be loaded: {type(error).__name__}: {first_line(error)}') from error


def _read(file: str | Path | IO[bytes], name: str | Path, trust: bool) -> Any:
    file = Path(file) if isinstance(file, str) else file  # as mmengine's loader of pavi:// gives it
    try:
        if isinstance(file, Path):
            check_regular(file)
            with file.open('rb') as opened:
                kind = kind_of(opened)
        else:
            kind = kind_of(file)
            file.seek(0)
        if kind == 'safetensors':
            return _read_safetensors(file)
        with replaced(torch.serialization, '_weights_only_unpickler', pickles):
            # torch.load itself may be replaced, see above.
            return pickles.plain(torch.serialization.load(file, map_location='cpu', weights_only=not trust))
    except RefusedError as error:
        raise CheckpointError(f'{name} {error}') from error
    except FileNotFoundError as error:
        beside = sorted(path.name for path in Path(name).parent.glob('*.pth'))
        hint = f'; {Path(name).parent} has {shortened(beside, 4)}' if beside else ''
        raise CheckpointError(f'there is no file {name}{hint}') from error
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read: {error.strerror or error}') from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f'{name} needs a package or class that cannot be imported: {error}') from error
    except Exception as error:  # reading other files can raise anything
        raise CheckpointError(f'{name} is damaged, or not written by torch.save; download or copy it again '
                              f'({first_line(error)})') from error


def _read_safetensors(file: Path | IO[bytes]) -> dict[str, Any]:
    """Tensors, or those and ``meta`` if the metadata hold it."""
    from safetensors import safe_open
    from safetensors.torch import load
    if not isinstance(file, Path):
        return load(file.read())
    with safe_open(file, 'pt') as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no dict
        meta = (opened.metadata() or {}).get(METADATA)
    return pickles.plain({'state_dict': tensors, 'meta': json.loads(meta)}) if meta else tensors


def tensors_of(checkpoint: Any, source: str | Path, prefix: str = '') -> 'OrderedDict[str, Tensor]':
    """Find the weights in the content of a checkpoint file.

    Args:
        checkpoint: A state dict, a dict with one under one of :data:`WEIGHT_KEYS`, or a module.
        source: Its origin, for errors.
        prefix: Select tensors whose names start with this.

    Returns:
        Name -> tensor, without ``prefix`` and the prefixes of wrappers.

    Raises:
        CheckpointError: If there are no tensors, or unsupported ones.
    """
    weights = find_weights(checkpoint, source)
    tensors = OrderedDict((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise CheckpointError(f'{source}: a tensor has the name {name!r}; expected a string')
        if _is_odd(value):
            raise CheckpointError(f'{source}: {name} is not an ordinary tensor with all of its values in the file: '
                                  f'{value.layout}, {value.dtype}, {value.dim()} dimensions, {value.device}')
    if isinstance(metadata := getattr(weights, '_metadata', None), Mapping):
        tensors._metadata = metadata
    tensors = unify(tensors, source)
    if prefix:
        prefix = f'{prefix.removesuffix(".")}.'
        tensors = OrderedDict((name[len(prefix):], value) for name, value in tensors.items()
                              if name.startswith(prefix))
        if not tensors:
            raise CheckpointError(f'{source} holds no tensors under {prefix}; its first one is {next(iter(weights))}')
    return tensors


def find_weights(checkpoint: Any, source: str | Path) -> Mapping:
    """The part of a checkpoint that holds the weights, see :func:`tensors_of`."""
    if isinstance(checkpoint, nn.Module):
        return checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        for candidate in (*(checkpoint.get(key) for key in WEIGHT_KEYS), checkpoint):
            if isinstance(candidate, nn.Module):
                return candidate.state_dict()
            if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
                return candidate
        content = f'a dict with {", ".join(map(str, list(checkpoint)[:5])) or "no keys"}'
    else:
        content = f'a {type(checkpoint).__name__}'
    raise CheckpointError(f'{source} holds no tensors, but {content}; expected weights at the top level, or under one '
                          f'of {", ".join(WEIGHT_KEYS)}')


def _is_odd(value: Tensor) -> bool:
    """Whether a tensor cannot be loaded into a model."""
    return (value.layout != torch.strided or value.is_meta or value.is_nested or value.is_quantized
            or value.is_complex() or 'float4' in str(value.dtype) or value.dim() > _MOST_DIMENSIONS
            or value.numel() * value.element_size() > value.untyped_storage().nbytes())


def invalid_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is infinite or NaN."""
    return [name for name, value in tensors.items() if value.is_floating_point()
            and not (value if value.element_size() > 1 else value.float()).isfinite().all()]


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise a CheckpointError if a value of ``tensors``, from ``source``, is infinite or NaN."""
    if bad := invalid_tensors(tensors):
        raise CheckpointError(f'{source}: {len(bad)} of {len(tensors)} tensors hold infinite values or NaN, first '
                              f'{bad[0]}; the training has diverged, use an earlier checkpoint')


@CheckpointLoader.register_scheme(prefixes=(*SCHEMES, RELEASE), force=True)
def load_for_mmengine(filename: str, map_location: Any = None, logger: Any = None) -> dict[str, Any]:
    """Read a checkpoint for mmengine. Registered for ``repvit://``, as in ``load_from='repvit://m1_1_coco'``, for
    ``hf://``, and for the addresses of the published files.

    Args:
        filename: See :func:`read_checkpoint`.
        map_location: Not used: tensors are on the CPU, and the model copies them to its device.
        logger: Not used.

    Returns:
        The content of the file, with the weights under ``state_dict``, those of a RepViT in our format.

    Raises:
        CheckpointError: If the name is unknown, or the file cannot be downloaded or read.
    """
    checkpoint = read_checkpoint(filename)
    tensors = tensors_of(checkpoint, filename)
    rest = checkpoint if isinstance(checkpoint, Mapping) else {}
    return {**{key: value for key, value in rest.items() if not isinstance(value, Tensor)},
            'state_dict': rename(tensors, find_backbones(tensors, filename), source=filename)[0]}


def patch_readers() -> None:
    """Keep mmengine from running code from checkpoints, YAML files and pickles, and from reading pipes.

    mmcv decodes images with our reader, too. This holds for the whole process. mmengine's own loader unpickles any
    file, for every ``init_cfg`` except a RepViT's. The tools and the Runner call this; importing ``repvit_mm`` alone
    changes neither. Python configs are programs, and are still run.
    """
    CheckpointLoader.load_checkpoint = staticmethod(load_for_mmengine)
    read_plain_files()
    replace_mmcv_decoder()
