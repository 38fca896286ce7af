"""The command-line options that select a SAM."""
import argparse
import re
from typing import TYPE_CHECKING

from ..archs import SAM_ENCODERS
from .arguments import DEVICE, whole_number

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_side = whole_number(16, 8192, multiple_of=16)


def image_size(text: str) -> int | tuple[int, ...]:
    """A ``type`` for argparse: a side, or HEIGHTxWIDTH."""
    if re.fullmatch(r'\d+x\d+', text):
        return tuple(map(_side, text.split('x')))
    return _side(text)


#: Side of a grid of prompt points.
grid = whole_number(1, 512)
RANDOM_WEIGHTS = ('Without a checkpoint the weights are random, and the masks are meaningless. '
                  '--checkpoint repvit://sam downloads the published ones.')


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`model_from` reads."""
    parser.add_argument('--encoder', choices=SAM_ENCODERS, default='repvit_m2_3', metavar='NAME',
                        help=f'image encoder: {", ".join(SAM_ENCODERS)} (default: %(default)s)')
    parser.add_argument('--checkpoint', metavar='FILE',
                        help='weights; repvit://sam are the published ones, for repvit_m2_3 (default: random weights)')
    parser.add_argument('--image-size', type=image_size, default=1024, metavar='PIXELS',
                        help='longer side to which images are scaled and padded, or HEIGHTxWIDTH for RepViT encoders; '
                             'multiples of 16 (default: %(default)s)')
    parser.add_argument('--device', metavar='NAME', help=DEVICE)


def model_from(args: argparse.Namespace) -> 'Sam':
    """Build the model of the options, fused and on its device, and warn if its weights are random.

    Raises:
        UserError: If the model, its checkpoint or the device is invalid.
    """
    import torch
    from rich.console import Console

    from ..models.predicting import find_device
    from ..network.fusion import fuse
    from ..sam.build import build_sam
    from ..sam.encoder import SamEncoder
    device = find_device(args.device)
    if args.checkpoint is None:
        torch.manual_seed(0)  # the same random weights in every run
        Console(stderr=True).print(RANDOM_WEIGHTS, style='yellow')
    sam = build_sam(args.encoder, args.checkpoint, args.image_size)
    return (fuse(sam) if isinstance(sam.image_encoder, SamEncoder) else sam).to(device)
