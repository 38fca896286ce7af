"""The teacher of a distillation: a whole SAM."""
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from segment_anything.modeling import Sam
from torch import Tensor

from ..checkpoints import fetch
from ..errors import CheckpointError, ConfigError
from ..io.files import sha256_of
from .build import build_sam


class SamTeacher:
    """A whole SAM, frozen. It is not a submodule of the student's model, which neither saves nor trains it.

    Args:
        encoder: See :func:`repvit_mm.sam.encoder.build_encoder`.
        checkpoint: Its weights, a file with the whole SAM.
        image_size: Side in pixels of the padded square image.
        random: Use random weights with a fixed seed, for trials without a checkpoint.

    Raises:
        ConfigError: If it has both ``checkpoint`` and ``random``.
        CheckpointError: If it has neither.
    """

    def __init__(self, encoder: str | Mapping = 'vit_h', checkpoint: str | None = None, image_size: int = 1024,
                 random: bool = False):
        if checkpoint is None and not random:
            raise CheckpointError(f'the teacher {encoder} has no weights: set model.teacher.checkpoint to the file of '
                                  'the whole SAM, e.g. sam_vit_h_4b8939.pth')
        if checkpoint is not None and random:
            raise ConfigError('the teacher has a checkpoint and random=True: leave out one of them')
        self.encoder = encoder if isinstance(encoder, str) else dict(encoder)
        self.checkpoint, self.image_size = checkpoint, image_size
        self._sam: Sam | None = None

    def sam(self, device: torch.device) -> Sam:
        """The model on ``device``; built on first use.

        Raises:
            CheckpointError: If the checkpoint cannot be read or does not fit.
        """
        if self._sam is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._sam = build_sam(self.encoder, self.checkpoint, self.image_size).requires_grad_(False)
            print_log(f'The teacher has the weights of {self.checkpoint}' if self.checkpoint else
                      'The teacher has random weights, which are for trials only', 'current')
        return self._sam.to(device)

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalised -> (N, 256, image_size / 16, image_size / 16)."""
        return self.sam(inputs.device).image_encoder(inputs)

    def identity(self) -> dict[str, Any]:
        """All settings that affect its embeddings: encoder, image size, and the SHA-256 of the weights."""
        digest = None
        if self.checkpoint is not None:
            digest = sha256_of(fetch(self.checkpoint))
        encoder = self.encoder if isinstance(self.encoder, str) else {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.encoder.items()}
        return {'encoder': encoder, 'image_size': self.image_size, 'checkpoint_sha256': digest}
