"""The teacher of a distillation: a whole SAM."""
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from segment_anything.modeling import Sam
from torch import Tensor

from ..checkpoints import fetch
from ..errors import CheckpointError, ConfigError, UserError
from ..io.files import atomic_write, check_regular, make_folder, sha256_of
from .build import CHANNELS, STRIDE, build_sam


class SamTeacher:
    """A whole SAM, frozen. It is not a submodule of the student's model, which neither saves nor trains it.

    Args:
        encoder: See :func:`repvit_mm.sam.encoder.build_encoder`.
        checkpoint: Its weights, a file with the whole SAM.
        image_size: Side in pixels of the padded square image.
        random: Use random weights with a fixed seed, for trials without a checkpoint.
        cache: Folder that keeps the embedding of each image, in half precision: only the first epoch computes them.

    Raises:
        ConfigError: If it has both ``checkpoint`` and ``random``.
        CheckpointError: If it has neither.
    """

    def __init__(self, encoder: str | Mapping = 'vit_h', checkpoint: str | None = None, image_size: int = 1024,
                 random: bool = False, cache: str | None = None):
        if checkpoint is None and not random:
            raise CheckpointError(f'the teacher {encoder} has no weights: set model.teacher.checkpoint to the file of '
                                  'the whole SAM, e.g. sam_vit_h_4b8939.pth')
        if checkpoint is not None and random:
            raise ConfigError('the teacher has a checkpoint and random=True: leave out one of them')
        self.encoder = encoder if isinstance(encoder, str) else dict(encoder)
        self.checkpoint, self.image_size, self.cache = checkpoint, image_size, cache
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
    def embed(self, inputs: Tensor, digests: Sequence[str] = ()) -> Tensor:
        """The embeddings of a batch.

        Args:
            inputs: (N, 3, image_size, image_size), normalised.
            digests: A digest of the pixels of each image, its name in the cache.

        Returns:
            (N, 256, image_size / 16, image_size / 16).

        Raises:
            UserError: If the cache cannot be written, or an embedding exceeds half precision.
        """
        if self.cache is None:
            return self.sam(inputs.device).image_encoder(inputs)
        paths = [self._folder / digest[:2] / f'{digest}.npz' for digest in digests]
        embeddings = [self._read(path) for path in paths]
        if missing := [i for i, embedding in enumerate(embeddings) if embedding is None]:
            for i, embedding in zip(missing, self.sam(inputs.device).image_encoder(inputs[missing]), strict=True):
                embeddings[i] = embedding.half()  # as later epochs, and resumed trainings, read it
                if not embeddings[i].isfinite().all():
                    raise UserError(f"the teacher's embedding of {digests[i]} exceeds half precision: leave out "
                                    'model.teacher.cache')
                with atomic_write(make_folder(paths[i].parent) / paths[i].name) as part:
                    np.savez(part, embeddings[i].cpu().numpy())
        return torch.stack([embedding.to(inputs) for embedding in embeddings])

    @cached_property
    def _folder(self) -> Path:
        """Folder for all settings that affect the embeddings."""
        weights = self.checkpoint and sha256_of(fetch(self.checkpoint))
        settings = json.dumps([self.encoder, self.image_size, weights], sort_keys=True)
        return make_folder(Path(self.cache, hashlib.sha256(settings.encode()).hexdigest()[:16]), 'model.teacher.cache')

    def _read(self, path: Path) -> Tensor | None:
        """An embedding; None if it is missing or damaged."""
        try:
            check_regular(path)
            with np.load(path, allow_pickle=False) as content:
                embedding = content['arr_0']
        except Exception:  # a damaged archive fails in many ways
            return None
        side = self.image_size // STRIDE
        is_intact = embedding.dtype == np.float16 and embedding.shape == (CHANNELS, side, side)
        return torch.from_numpy(embedding) if is_intact and np.isfinite(embedding).all() else None
