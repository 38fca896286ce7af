"""Building SAMs, and assembling a RepViT-SAM from the checkpoints of its parts."""
from collections.abc import Mapping
from pathlib import Path

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from ..checkpoints import check_finite, find_backbones, load_into, read_checkpoint, tensors_of
from ..errors import CheckpointError
from .encoder import SamEncoder, build_encoder

#: The parts of SAM that do not depend on the image encoder.
DECODER_PARTS = ('prompt_encoder', 'mask_decoder')
#: Embeddings of every published SAM: channels, and pixels of the image per position.
CHANNELS, STRIDE = 256, 16


def build_sam(encoder: str | Mapping = 'm2_3', checkpoint: str | Path | None = None, image_size: int = 1024) -> Sam:
    """Build a SAM in evaluation mode.

    Args:
        encoder: The image encoder, see :func:`repvit_mm.sam.encoder.build_encoder`.
        checkpoint: Weights of the whole model: a path, or ``'repvit://sam'`` for the published ones (``m2_3``).
            Random weights by default.
        image_size: Longer side in pixels to which images are scaled, a multiple of 16. The published weights are
            for 1024; smaller sizes are faster and less accurate.

    Returns:
        A ``segment_anything`` model, for ``SamPredictor`` and ``SamAutomaticMaskGenerator``.

    Raises:
        ConfigError: If the encoder is unknown.
        CheckpointError: If the file cannot be read, or is not a SAM with this encoder.

    Example:
        >>> from repvit_mm.sam import build_sam
        >>> sam = build_sam('m0_9', image_size=256)
        >>> sam.prompt_encoder.image_embedding_size
        (16, 16)
    """
    sam = Sam(build_encoder(encoder, image_size), *_build_decoder(image_size)).eval()
    if checkpoint is not None:
        tensors = tensors_of(read_checkpoint(checkpoint), checkpoint)
        check_finite(tensors, checkpoint)
        if isinstance(sam.image_encoder, SamEncoder):
            _check_repvit_sam(tensors, checkpoint)
            load_into(sam, tensors, str(checkpoint))
        else:
            _load(sam, tensors, checkpoint, f'a SAM with the image encoder {encoder} for images of {image_size}')
    return sam


def _build_decoder(image_size: int) -> tuple[PromptEncoder, MaskDecoder]:
    side = image_size // STRIDE
    prompt_encoder = PromptEncoder(embed_dim=CHANNELS, image_embedding_size=(side, side),
                                   input_image_size=(image_size, image_size), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8)
    return prompt_encoder, MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, num_multimask_outputs=3,
                                       iou_head_depth=3, iou_head_hidden_dim=CHANNELS)


def assemble(encoder: str | Path, decoder: str | Path, arch: str | Mapping = 'm2_3', image_size: int = 1024) -> Sam:
    """Combine a distilled image encoder with the prompt encoder and mask decoder of its teacher.

    Args:
        encoder: Checkpoint of a distillation, or of a :class:`SamEncoder`.
        decoder: Checkpoint of a whole SAM, with any image encoder.
        arch: Architecture of the encoder.
        image_size: See :func:`build_sam`.

    Raises:
        CheckpointError: If a checkpoint cannot be read, or lacks the part.
    """
    sam = build_sam(arch, image_size=image_size)
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


def _check_repvit_sam(tensors: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    expected = 'expected a RepViT-SAM (repvit_sam.pt, repvit://sam, or a file of tools/sam_assemble.py)'
    others = [name for name in tensors if name.startswith('image_encoder.')]
    if others and not find_backbones(tensors):
        raise CheckpointError(f'{checkpoint} is a SAM with another image encoder: it has {others[0]}; {expected}')
    if lacking := [part for part in DECODER_PARTS if not any(name.startswith(f'{part}.') for name in tensors)]:
        raise CheckpointError(f'{checkpoint} has no {" and no ".join(lacking)}; {expected}')
