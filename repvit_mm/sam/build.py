"""Building SAMs, and assembling a RepViT-SAM from the checkpoints of its parts."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ..checkpoints import check_finite, load_into, read_checkpoint, tensors_of
from ..errors import CheckpointError, UserError
from .encoder import SamEncoder, build_encoder

#: The parts of SAM that do not depend on the image encoder.
DECODER_PARTS = ('prompt_encoder', 'mask_decoder')
#: Embeddings of every published SAM: channels, and pixels of the image per position.
CHANNELS, STRIDE = 256, 16


class PaddedSam(Sam):
    """A ``Sam`` that pads images to a rectangle, for RepViT encoders; with a square it is ``segment_anything``'s.

    Positions are encoded as in the square of the longer side, for which published decoders were trained.

    Args:
        image_encoder: See :func:`repvit_mm.sam.encoder.build_encoder`.
        padded_size: Height and width of the padded image.
    """

    def __init__(self, image_encoder: nn.Module, padded_size: tuple[int, int]):
        side = max(padded_size)
        embedding_size = getattr(image_encoder, 'embedding_size', (side // STRIDE, side // STRIDE))
        transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8)
        super().__init__(
            image_encoder, _PromptEncoder(CHANNELS, embedding_size, (side, side), mask_in_chans=16),
            MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, num_multimask_outputs=3, iou_head_depth=3,
                        iou_head_hidden_dim=CHANNELS))
        self.padded_size = padded_size

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise and pad an image, (..., 3, rows, columns).

        Raises:
            UserError: If it does not fit.
        """
        (height, width), (rows, columns) = self.padded_size, x.shape[-2:]
        if rows > height or columns > width:
            raise UserError(f'scaled to {columns} x {rows} pixels, the image does not fit into {width} x {height}; '
                            f'choose another image size, such as {max(height, width)}')
        return super().preprocess(x)[..., :height, :width]

    def postprocess_masks(self, masks: Tensor, input_size: Sequence[int], original_size: Sequence[int]) -> Tensor:
        """Remove the padding from masks, and resize them to the image."""
        masks = F.interpolate(masks, self.padded_size, mode='bilinear', align_corners=False)
        masks = masks[..., :input_size[0], :input_size[1]]
        return F.interpolate(masks, original_size, mode='bilinear', align_corners=False)


class _PromptEncoder(PromptEncoder):
    def get_dense_pe(self) -> Tensor:
        rows, columns = self.image_embedding_size
        return self.pe_layer((max(rows, columns),) * 2)[None, :, :rows, :columns]


def build_sam(encoder: str | Mapping = 'm2_3', checkpoint: str | Path | None = None,
              image_size: int | Sequence[int] = 1024) -> PaddedSam:
    """Build a SAM in evaluation mode.

    Args:
        encoder: The image encoder, see :func:`repvit_mm.sam.encoder.build_encoder`.
        checkpoint: Weights of the whole model: a path, or ``'repvit://sam'`` for the published ones (``m2_3``).
            Random weights by default.
        image_size: Longer side in pixels to which images are scaled and padded, a multiple of 16. The published
            weights are for 1024; smaller sizes are faster and less accurate. A RepViT also takes (height, width):
            images are scaled to the longer of both, and must then fit into the other.

    Returns:
        A ``segment_anything`` model, for ``SamPredictor`` and ``SamAutomaticMaskGenerator``.

    Raises:
        ConfigError: If the encoder is unknown, or does not take such images.
        CheckpointError: If the file cannot be read, or is not a SAM with this encoder.

    Example:
        >>> from repvit_mm.sam import build_sam
        >>> sam = build_sam('m0_9', image_size=256)
        >>> sam.prompt_encoder.image_embedding_size
        (16, 16)
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    sam = PaddedSam(build_encoder(encoder, image_size), size).eval()
    if checkpoint is not None:
        tensors = tensors_of(read_checkpoint(checkpoint), checkpoint)
        check_finite(tensors, checkpoint)
        if isinstance(sam.image_encoder, SamEncoder):
            load_into(sam, tensors, str(checkpoint))
        else:
            _load(sam, tensors, checkpoint, f'a SAM with the image encoder {encoder} for images of {image_size}')
    return sam


def assemble(encoder: str | Path, decoder: str | Path, arch: str | Mapping = 'm2_3') -> PaddedSam:
    """Combine a distilled image encoder with the prompt encoder and mask decoder of its teacher.

    Args:
        encoder: Checkpoint of a distillation, or of a :class:`SamEncoder`.
        decoder: Checkpoint of a whole SAM, with any image encoder.
        arch: Architecture of the encoder.

    Raises:
        CheckpointError: If a checkpoint cannot be read, or lacks the part.
    """
    sam = build_sam(arch)
    load_into(sam.image_encoder, read_checkpoint(encoder), str(encoder))
    tensors = tensors_of(read_checkpoint(decoder), decoder)
    check_finite(tensors, decoder)
    for part in DECODER_PARTS:
        inside = {name.removeprefix(f'{part}.'): value for name, value in tensors.items()
                  if name.startswith(f'{part}.')}
        _load(getattr(sam, part), inside, decoder, f'a whole SAM, with its {part}')
    return sam


def _load(module: nn.Module, tensors: Mapping[str, Tensor], checkpoint: str | Path, expected: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:200]
        raise CheckpointError(f'{checkpoint} is not {expected}: {reason}') from error
