"""Make a RepViT-SAM from a distilled encoder and its teacher's decoder: tools/sam_assemble.py ENCODER SAM OUT."""
from pathlib import Path

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.archs import ARCHS
from repvit_mm.cli.arguments import Parser
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Combine a distilled image encoder with the decoder of a SAM.')
    parser.add_argument('encoder', help='checkpoint of a distillation')
    parser.add_argument('sam', help="checkpoint of the teacher, a whole SAM, e.g. Meta's sam_vit_h_4b8939.pth")
    parser.add_argument('out', type=Path, help='the new file')
    parser.add_argument('--arch', choices=sorted(ARCHS), default='m2_3', metavar='NAME',
                        help=f'architecture of the encoder: {", ".join(sorted(ARCHS))} (default: %(default)s)')
    parser.add_argument('--official', action='store_true', help="use the tensor names of the authors' repvit_sam.pt")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    import torch

    from repvit_mm.checkpoints import convert_state_dict
    from repvit_mm.io.files import atomic_write
    from repvit_mm.sam import assemble
    tensors = assemble(args.encoder, args.sam, args.arch).state_dict()
    if args.official:
        tensors = convert_state_dict(tensors, to='official')
    with atomic_write(args.out) as path:
        torch.save(dict(tensors), path)
    print(f'{len(tensors)} tensors: {args.out}')


if __name__ == '__main__':
    run_cli(main)
