"""Building RepViT-SAM, and assembling it from the checkpoints of its parts."""
from collections.abc import Mapping
from pathlib import Path

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from ..checkpoints import check_finite, find_backbones, load_into, read_checkpoint, tensors_of
from ..errors import CheckpointError
from .encoder import SamEncoder

#: The parts of SAM that do not depend on the image encoder.
DECODER_PARTS = ('prompt_encoder', 'mask_decoder')
#: Of the embeddings of every published SAM: channels, and pixels of the image per position.
CHANNELS, STRIDE = 256, 16


def build_sam(arch: str | Mapping = 'm2_3', checkpoint: str | Path | None = None, image_size: int = 1024) -> Sam:
    """Build a RepViT-SAM in evaluation mode.

    Args:
        arch: Architecture of the image encoder, see :class:`repvit_mm.RepViT`.
        checkpoint: Weights of the whole model: a path, or ``'repvit://sam'`` for the published ones (``m2_3``).
            Random weights by default.
        image_size: Longer side in pixels to which pictures are scaled, a multiple of 16. The published weights are
            for 1024; smaller sizes are faster and less accurate.

    Returns:
        A ``segment_anything`` model, for ``SamPredictor`` and ``SamAutomaticMaskGenerator``.

    Raises:
        CheckpointError: If the file cannot be read, or is not a RepViT-SAM of this architecture.

    Example:
        >>> from repvit_mm.sam import build_sam
        >>> sam = build_sam('m0_9', image_size=256)
        >>> sam.prompt_encoder.image_embedding_size
        (16, 16)
    """
    encoder = SamEncoder(arch, image_size, CHANNELS)
    sam = Sam(encoder, *build_decoder(image_size, encoder.stride)).eval()
    if checkpoint is not None:
        load_into(sam, _read_repvit_sam(checkpoint), str(checkpoint))
    return sam


def build_decoder(image_size: int, stride: int = STRIDE) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder, with random weights, for embeddings of ``image_size / stride`` pixels."""
    side = image_size // stride
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
        CheckpointError: If one of them cannot be read, or lacks the part.
    """
    sam = build_sam(arch, image_size=image_size)
    load_into(sam.image_encoder, read_checkpoint(encoder), str(encoder))
    load_decoder(sam, tensors_of(read_checkpoint(decoder), decoder), decoder)
    return sam


def load_decoder(sam: Sam, tensors: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    """Load prompt encoder and mask decoder from the tensors of a whole SAM, with any image encoder.

    Args:
        sam: Modified in place.
        tensors: Name -> tensor.
        checkpoint: Their source, for errors.

    Raises:
        CheckpointError: If the parts do not match, or are not finite.
    """
    check_finite(tensors, checkpoint)
    for part in DECODER_PARTS:
        inside = under(tensors, f'{part}.')
        if not inside:
            raise CheckpointError(f'{checkpoint} has no {part}; expected the checkpoint of a whole SAM')
        module = getattr(sam, part)
        wanted = module.state_dict()
        if wrong := [name for name in {**wanted, **inside}
                     if name not in wanted or name not in inside or wanted[name].shape != inside[name].shape]:
            raise CheckpointError(f'{checkpoint} does not hold the {part} of SAM: {len(wrong)} tensors are missing, '
                                  f'unexpected or of another shape, the first is {part}.{wrong[0]}')
        module.load_state_dict(inside)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}


def _read_repvit_sam(checkpoint: str | Path) -> Mapping[str, Tensor]:
    """Read a checkpoint, and check that it is one of a RepViT-SAM."""
    tensors = tensors_of(read_checkpoint(checkpoint), checkpoint)
    expected = 'expected a RepViT-SAM (repvit_sam.pt, repvit://sam, or a file of tools/sam_assemble.py)'
    if not find_backbones(tensors) and (others := list(under(tensors, 'image_encoder.'))):
        raise CheckpointError(f'{checkpoint} is a SAM with another image encoder: it has image_encoder.{others[0]}; '
                              f'{expected}')
    if lacking := [part for part in DECODER_PARTS if not under(tensors, f'{part}.')]:
        raise CheckpointError(f'{checkpoint} has no {" and no ".join(lacking)}; {expected}')
    return tensors
