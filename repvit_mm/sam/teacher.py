"""The SAM that an encoder is distilled from."""
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn

from ..checkpoints import fetch, load_into, read_checkpoint, tensors_of
from ..checkpoints.download import sha256_of
from ..errors import CheckpointError, ConfigError
from .build import build_decoder, load_decoder, under
from .encoder import SamEncoder

#: Name of a published SAM -> settings of its image encoder.
VITS = {
    'vit_b': dict(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    'vit_l': dict(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    'vit_h': dict(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


@MODELS.register_module()
class SamVit(ImageEncoderViT):
    """SAM's ViT image encoder.

    Args:
        image_size: Side in pixels of the padded square image.
        embed_dim: Channels of the tokens.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        global_attn_indexes: The blocks with global instead of windowed attention.
    """

    def __init__(self, image_size: int, embed_dim: int, depth: int, num_heads: int,
                 global_attn_indexes: tuple[int, ...]):
        super().__init__(img_size=image_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads,
                         norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
                         global_attn_indexes=tuple(global_attn_indexes))


class SamTeacher:
    """A whole SAM, frozen. It is not a submodule of the student's model, which neither saves nor trains it.

    Args:
        encoder: A key of :data:`VITS`, or the config of a :class:`SamVit` or :class:`SamEncoder` without
            ``image_size``.
        checkpoint: Its weights, a file with the whole SAM.
        image_size: Side in pixels of the padded square image.
        random: Use random weights with a fixed seed, for trials without a checkpoint.

    Raises:
        ConfigError: For invalid settings.
        CheckpointError: If it has neither ``checkpoint`` nor ``random``.
    """

    def __init__(self, encoder: str | Mapping = 'vit_h', checkpoint: str | None = None, image_size: int = 1024,
                 random: bool = False):
        if isinstance(encoder, str) and encoder not in VITS:
            raise ConfigError(f'teacher: encoder={encoder!r} must be one of {", ".join(VITS)}, or a config')
        if checkpoint is None and not random:
            raise CheckpointError(f'the teacher {encoder} has no weights: set model.teacher.checkpoint to the file of '
                                  'the whole SAM, e.g. sam_vit_h_4b8939.pth')
        if checkpoint is not None and random:
            raise ConfigError('the teacher has a checkpoint and random=True: leave out one of them')
        self.encoder = dict(VITS[encoder], type='SamVit') if isinstance(encoder, str) else dict(encoder)
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
                self._sam = self._build()
            print_log(f'The teacher has the weights of {self.checkpoint}' if self.checkpoint else
                      'The teacher has random weights, which are for trials only', 'current')
        return self._sam.to(device)

    def _build(self) -> Sam:
        encoder = MODELS.build({**self.encoder, 'image_size': self.image_size})
        sam = Sam(encoder, *build_decoder(self.image_size)).eval().requires_grad_(False)
        if self.checkpoint is None:
            return sam
        tensors = tensors_of(read_checkpoint(self.checkpoint), self.checkpoint)
        if isinstance(encoder, SamEncoder):
            load_into(sam, tensors, str(self.checkpoint))
            return sam
        try:
            encoder.load_state_dict(under(tensors, 'image_encoder.'))
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise CheckpointError(f"the teacher's checkpoint {self.checkpoint} does not match the config: "
                                  f'{reason}') from error
        load_decoder(sam, tensors, self.checkpoint)
        return sam

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """(N, 3, image_size, image_size), normalised -> (N, 256, image_size / 16, image_size / 16)."""
        return self.sam(inputs.device).image_encoder(inputs)

    def identity(self) -> dict[str, Any]:
        """Everything that its embeddings depend on: encoder, image size, and the SHA-256 of the weights."""
        digest = None
        if self.checkpoint is not None:
            path = Path(fetch(self.checkpoint))
            if not path.is_file():
                raise CheckpointError(f'the checkpoint {path} does not exist')
            digest = sha256_of(path)
        encoder = {key: list(value) if isinstance(value, tuple) else value for key, value in self.encoder.items()}
        return {'encoder': encoder, 'image_size': self.image_size, 'checkpoint_sha256': digest}
