"""Convert checkpoint files between formats, and write them as the Hugging Face Hub shares them."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import CheckpointError
from ..io.files import atomic_write
from ..io.images import IMAGENET
from .classes import classes_of, meta_of
from .download import SCHEME, published
from .formats import FoundArch, FoundBackbone, find_in, rename
from .reading import METADATA, check_finite, find_weights, read_checkpoint, tensors_of

_CARD = """---
library_name: timm
license: apache-2.0
tags: [image-classification, repvit]
---
# {title}

RepViT {arch} ([paper](https://arxiv.org/abs/2307.09283)) with {parameters:,} values, {classes}.

{figures}

```python
import timm, repvit_mm
timm.create_model('hf-hub:OWNER/REPO', pretrained=True)
repvit_mm.get_model('hf://OWNER/REPO', pretrained=True)
```
"""


class Conversion(NamedTuple):
    """A converted file.

    Attributes:
        source: Format of the names in the original file.
        result: Format of the names in the new file.
        tensors: Number of tensors.
        renamed: Number of tensors that were renamed.
        left_out: Other entries of the original file, such as the state of an optimiser, that were dropped.
    """

    source: FoundBackbone
    result: FoundBackbone
    tensors: int
    renamed: int
    left_out: tuple[str, ...]


def convert_file(source: str | Path, destination: str | Path, to: str = 'repvit_mm', trust: bool = False,
                 overwrite: bool = False) -> Conversion:
    """Write a copy of a checkpoint with the names of another format.

    The layout of the new file is the one that programs using these names expect: weights under ``state_dict`` for
    OpenMMLab, under ``model`` for the authors' classification, at the top level for timm and the authors' SAM.
    For OpenMMLab, ``meta`` is kept; a safetensors file has the config, class names and metrics in its metadata.
    Everything else, such as the state of an optimiser, is dropped.

    Args:
        source: File, ``repvit://NAME`` or address, see :func:`repvit_mm.load_checkpoint`.
        destination: The new file; in the format of its suffix ``.safetensors``, else written by ``torch.save``.
        to: One of :data:`repvit_mm.checkpoints.NAME_FORMATS`.
        trust: Run code from the file if it needs that; the new file will not.
        overwrite: Replace ``destination`` if it exists.

    Raises:
        CheckpointError: If the source cannot be read or converted.
        UserError: If the destination cannot be written.
    """
    destination = _new(destination, overwrite)
    checkpoint, tensors, found = _read(source, trust)
    weights = find_weights(checkpoint, source)
    converted, results = rename(tensors, found, to, source)

    content = _arrange(converted, results[0], checkpoint)
    with atomic_write(destination) as part:
        if destination.suffix == '.safetensors':
            _save_safetensors(converted, part, _metadata(checkpoint, found[0].arch, source))
        else:
            torch.save(content, part)
    entries = checkpoint.items() if isinstance(checkpoint, Mapping) and checkpoint is not weights else ()
    left_out = [str(key) for key, value in entries
                if not isinstance(value, Tensor) and value is not weights and key not in content]
    renamed = sum(old != new for old, new in zip(tensors, converted, strict=True))
    return Conversion(found[0], results[0], len(tensors), renamed, tuple(left_out))


def write_hub_folder(source: str | Path, folder: str | Path, trust: bool = False, overwrite: bool = False) -> None:
    """Write the classifier, or else the backbone, of a checkpoint as a folder for the Hugging Face Hub.

    ``timm.create_model('local-dir:FOLDER', pretrained=True)`` and ``repvit_mm.get_model(FOLDER, pretrained=True)`` load
    it, as they load the repository to which it is uploaded with ``hf-hub:`` and ``hf://``.

    Args:
        source: See :func:`convert_file`.
        folder: The new folder: ``model.safetensors`` in timm's names, ``config.json`` and a model card.
        trust: See :func:`convert_file`.
        overwrite: Replace ``folder`` if it exists.

    Raises:
        CheckpointError: If the source cannot be read, is fused, or timm does not have its architecture.
        UserError: If the folder cannot be written.
    """
    folder = _new(folder, overwrite, is_folder=True)
    checkpoint, tensors, (found, *_) = _read(source, trust)
    arch = found.arch
    converted, (result,) = rename(tensors, [found], 'timm', source)
    kept = (f'{result.root}stem.', f'{result.root}stages.', *([f'{result.root}head.'] if found.has_head else []))
    converted = {name.removeprefix(result.root): value for name, value in converted.items() if name.startswith(kept)}
    if found.fused or len(arch.names) != 1 or arch.names == ['m0_6']:
        raise CheckpointError(f'{source} holds {"fused weights" if found.fused else arch}; timm has the unfused '
                              'architectures m0_9 to m2_3 and m1 to m3')
    metadata = _metadata(checkpoint, arch, source)
    number = len(converted['head.head.l.weight']) if found.has_head else 0
    with atomic_write(folder, folder=True) as part:
        part.mkdir()
        _save_safetensors(converted, part / 'model.safetensors', metadata)
        config = _timm_config(arch, number, 'head.head_dist.l.weight' in converted, metadata['dataset_meta']['classes'])
        (part / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
        figures = '\n'.join(f'- {name}: {value:g}' for name, value in metadata['metrics'].items())
        (part / 'README.md').write_text(_CARD.format(
            title=folder.name, arch=arch, parameters=sum(value.numel() for value in converted.values()),
            classes=f'a classifier of {number} classes' if number else 'a backbone without classifier',
            figures=figures or 'No figures are recorded in its checkpoint.'))


def _read(source: str | Path, trust: bool) -> tuple[Any, Mapping[str, Tensor], list[FoundBackbone]]:
    """A checkpoint, its tensors, and the backbones in them."""
    checkpoint = read_checkpoint(source, trust)
    tensors = tensors_of(checkpoint, source)
    check_finite(tensors, source)
    return checkpoint, tensors, find_in(tensors, source)


def _timm_config(arch: FoundArch, number: int, distillation: bool, classes: Sequence[str] | None) -> dict[str, Any]:
    """The ``config.json`` of timm."""
    return {
        'architecture': f'repvit_{arch}', 'num_classes': number, 'model_args': {'distillation': distillation},
        'pretrained_cfg': {
            'input_size': [3, 224, 224], 'pool_size': [7, 7], 'crop_pct': 0.95, 'interpolation': 'bicubic',
            'mean': [value / 255 for value in IMAGENET.mean], 'std': [value / 255 for value in IMAGENET.std],
            'first_conv': 'stem.conv1.c', 'license': 'apache-2.0',
            'classifier': ['head.head.l', 'head.head_dist.l'] if distillation else 'head.head.l',
            **({'label_names': list(classes)} if classes and len(classes) == number else {})}}


def _new(path: str | Path, overwrite: bool, is_folder: bool = False) -> Path:
    path = Path(path).expanduser()
    if not path.parent.is_dir() or path.is_dir() and not is_folder:
        kind = 'folder' if is_folder else 'file'
        raise CheckpointError(f'{path} cannot be written: expected a {kind} in an existing directory')
    if path.exists() and not overwrite:
        raise CheckpointError(f'{path} exists; --overwrite replaces it')
    if path.is_dir() and not (path / 'model.safetensors').is_file():
        raise CheckpointError(f'{path} holds other files; choose a new folder')
    return path


def _arrange(tensors: Mapping[str, Tensor], found: FoundBackbone, checkpoint: Any) -> dict[str, Any]:
    if found.format == 'timm' or (found.format == 'official' and found.root == 'image_encoder.'):
        return dict(tensors)
    if found.format == 'official' and found.root == '':
        return {'model': tensors}
    content = {'state_dict': tensors}
    if meta := meta_of(checkpoint):
        content['meta'] = meta
    return content


def _metadata(checkpoint: Any, arch: FoundArch, source: str | Path) -> dict[str, Any]:
    """Contents of a safetensors file besides its tensors, laid out as mmengine's ``meta``."""
    hub = checkpoint.get('message_hub') if isinstance(checkpoint, Mapping) else None
    scalars = hub.get('log_scalars') if isinstance(hub, Mapping) else None
    metrics = {str(name).removeprefix('val/'): float(history.data[0][-1]) for name, history in (scalars or {}).items()
               if str(name).startswith('val/') and isinstance(history, HistoryBuffer) and len(history.data[0])}
    weights = published().get(str(source).removeprefix(SCHEME))
    return {'arch': str(arch), 'dataset_meta': {'classes': classes_of(checkpoint, source)},
            'metrics': dict(weights.metrics) if weights else metrics, 'cfg': meta_of(checkpoint).get('cfg')}


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file
    save_file({name: value.contiguous() for name, value in tensors.items()}, path,
              {'format': 'pt', METADATA: json.dumps(metadata)})
