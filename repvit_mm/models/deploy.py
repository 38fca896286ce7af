"""Deploy checkpoints: files with fused weights, marked as fused."""
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError
from ..io.files import atomic_write
from ..network.fusion import fuse
from .folding import relative_difference
from .inference import build_inference_model

#: Largest allowed difference between the outputs before and after fusion, relative to the largest value.
BOUND = 2e-5


class FusedCheckpoint(NamedTuple):
    """A written deploy checkpoint.

    Attributes:
        path: The file.
        size: Size of the file, in bytes.
        size_before: Size of the unfused weights, in bytes.
        parameters_before: Parameters of the training form.
        parameters_after: Parameters of the fused form.
        difference: Largest difference between the outputs of both forms, relative to the largest value.
    """

    path: Path
    size: int
    size_before: int
    parameters_before: int
    parameters_after: int
    difference: float


def fuse_checkpoint(config: str | Path, checkpoint: str | Path, out: str | Path) -> FusedCheckpoint:
    """Fuse a checkpoint and write it, if the outputs stay the same.

    Only RepViT and its classifier are fused. mmcv's ConvModules in necks and heads are not, because the toolboxes'
    loaders and inferencers expect their names; :func:`repvit_mm.fuse` and the exporters fuse them, too.

    Args:
        config: A config or the name of an architecture, see :func:`repvit_mm.models.inference.build_inference_model`.
        checkpoint: A file or name for :func:`repvit_mm.load_checkpoint`, fused or not.
        out: The file to write, replaced if it exists. It holds the weights under ``state_dict``, and under ``meta`` the
            checkpoint's own ``meta`` with ``fused``, ``arch`` and ``dataset_meta``.

    Raises:
        ConfigError: If the config cannot be built.
        CheckpointError: If the weights do not fit, or the outputs change by more than rounding.
        UserError: If the file cannot be written.
    """
    model = build_inference_model(config, checkpoint)
    if model.backbone is None:
        raise ConfigError(f'{model.name} has no RepViT to fuse; export and benchmark fold the BatchNorms of other '
                          'backbones')
    before = sum(value.nbytes for value in model.model.state_dict().values())
    fused = fuse(model, own_only=True)
    difference = _largest_difference(model, fused)
    if not difference <= BOUND:  # also if it is NaN
        raise CheckpointError(f'{checkpoint} cannot be fused: the outputs would change by {difference:.1e} of the '
                              f'largest value, more than {BOUND:g}')
    meta = {**model.meta, 'fused': True, 'arch': model.arch}
    if model.classes:
        meta.setdefault('dataset_meta', {'classes': model.classes})
    with atomic_write(out) as path:
        torch.save({'meta': meta, 'state_dict': fused.model.state_dict()}, path)
        bytes_written = path.stat().st_size
    parameters = [sum(p.numel() for p in form.model.parameters()) for form in (model, fused)]
    return FusedCheckpoint(Path(out), bytes_written, before, *parameters, difference)


@torch.no_grad()
def _largest_difference(model: nn.Module, fused: nn.Module) -> float:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, model.in_channels, 224, 224, generator=generator)
    return relative_difference(fused(image), model(image))
