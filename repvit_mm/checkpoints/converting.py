"""Convert checkpoint files between formats."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..io.files import atomic_write
from .formats import FoundArch, FoundBackbone, arch_of, find_in, rename
from .reading import check_finite, find_weights, read_checkpoint, tensors_of


class Conversion(NamedTuple):
    """A converted file.

    Attributes:
        source: Format of the names in the original file.
        result: Format of the names in the new file.
        arch: The architecture.
        tensors: Number of tensors.
        renamed: Number of tensors that were renamed.
        left_out: Other entries of the original file, such as the state of an optimiser, that were dropped.
    """

    source: FoundBackbone
    result: FoundBackbone
    arch: FoundArch
    tensors: int
    renamed: int
    left_out: tuple[str, ...]


def convert_file(source: str | Path, destination: str | Path, to: str = 'repvit_mm', trust: bool = False,
                 overwrite: bool = False) -> Conversion:
    """Write a copy of a checkpoint with the names of another format.

    The layout of the new file is the one that programs using these names expect: weights under ``state_dict`` for
    OpenMMLab, under ``model`` for the authors' classification, at the top level for timm and the authors' SAM.
    For OpenMMLab, ``meta`` is kept; everything else, such as the state of an optimiser, is dropped.

    Args:
        source: File, ``repvit://NAME`` or address, see :func:`repvit_mm.load_checkpoint`.
        destination: The new file; in the format of its suffix ``.safetensors``, else written by ``torch.save``.
        to: One of :data:`repvit_mm.checkpoints.FORMATS`.
        trust: Run code from the file if it needs that; the new file will not.
        overwrite: Replace ``destination`` if it exists.

    Raises:
        CheckpointError: If the source cannot be read or converted.
        UserError: If the destination cannot be written.
    """
    destination = Path(destination).expanduser()
    if destination.is_dir() or not destination.parent.is_dir():
        raise CheckpointError(f'{destination} cannot be written: expected a file in an existing directory')
    if destination.exists() and not overwrite:
        raise CheckpointError(f'{destination} exists; --force replaces it')
    checkpoint = read_checkpoint(source, trust)
    weights, tensors = find_weights(checkpoint, source), tensors_of(checkpoint, source)
    check_finite(tensors, source)
    found = find_in(tensors, source)
    converted, results = rename(tensors, found, to, str(source))

    content = _arrange(converted, results[0], checkpoint)
    _write(content, destination)
    entries = checkpoint.items() if isinstance(checkpoint, Mapping) and checkpoint is not weights else ()
    left_out = [str(key) for key, value in entries
                if not isinstance(value, Tensor) and value is not weights and key not in content]
    renamed = sum(old != new for old, new in zip(tensors, converted, strict=True))
    return Conversion(found[0], results[0], arch_of(tensors, found[0]), len(tensors), renamed, tuple(left_out))


def _arrange(tensors: Mapping[str, Tensor], found: FoundBackbone, checkpoint: Any) -> dict[str, Any]:
    if found.format == 'timm' or (found.format == 'official' and found.root == 'image_encoder.'):
        return dict(tensors)
    if found.format == 'official' and found.root == '':
        return {'model': tensors}
    content = {'state_dict': tensors}
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get('meta'), Mapping):
        content['meta'] = checkpoint['meta']
    return content


def _write(content: dict[str, Any], destination: Path) -> None:
    """Write the file, and check that it can be read without trust."""
    with atomic_write(destination) as part:
        if destination.suffix == '.safetensors':
            from safetensors.torch import save_file
            save_file({name: value.contiguous() for name, value in tensors_of(content, destination).items()}, part)
        else:
            torch.save(content, part)
        try:
            read_checkpoint(part)
        except CheckpointError:  # meta of a trusted file needs other types
            content.pop('meta', None)
            torch.save(content, part)
            read_checkpoint(part)
