"""Export RepViT-SAM, encoder and decoder, to ONNX or Core ML: tools/sam_export.py {onnx,coreml} [options]."""
from pathlib import Path

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import PICTURES, Parser
from repvit_mm.cli.sam import add_model_arguments, model_from
from repvit_mm.errors import UserError, run_cli

_ENDINGS = {'onnx': '.onnx', 'coreml': '.mlpackage'}


def build_parser() -> Parser:
    parser = Parser(description='Export encoder and decoder as two files, and compare their outputs '
                                'with PyTorch.')
    parser.add_argument('format', choices=_ENDINGS, help='of both files')
    parser.add_argument('--out', type=Path, default=Path('outputs/sam_export'), metavar='DIR',
                        help='folder of the files (default: %(default)s)')
    parser.add_argument('--precision', choices=('fp16', 'fp32'), default='fp16',
                        help='precision of the Core ML encoder (default: %(default)s); the decoder is fp32')
    parser.add_argument('--pictures', nargs='+', type=Path, default=[], metavar='FILE',
                        help=PICTURES)
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from rich.console import Console

    from repvit_mm.export.sam import export_decoder, export_encoder
    from repvit_mm.io.files import make_folder
    args.device = 'cpu'
    if not args.encoder.startswith('repvit_'):
        raise UserError(f'--encoder {args.encoder}: only RepViT encoders are exported')
    arch = args.encoder.removeprefix('repvit_')
    sam, out, ending = model_from(args), make_folder(args.out, '--out'), _ENDINGS[args.format]
    with Console(stderr=True).status('exporting the encoder'):
        encoder = export_encoder(sam, out / f'sam_{arch}_encoder{ending}', args.checkpoint, args.precision,
                                 args.pictures)
    print(encoder)
    with Console(stderr=True).status('exporting the decoder'):
        decoder = export_decoder(sam, out / f'sam_{arch}_decoder{ending}', args.checkpoint, args.pictures)
    print(decoder)


if __name__ == '__main__':
    run_cli(main)
