"""Rename the tensors of a checkpoint: tools/convert_checkpoint.py SRC DST --to {repvit_mm,official,timm}."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CHECKPOINT, Parser
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(
        description='Write a copy of a checkpoint with the names of another format. The source format is detected: '
                    "the authors' names (either version), timm's or ours; a backbone alone, a classification model, "
                    'or a whole detector or segmentor; fused or not.')
    parser.add_argument('source', metavar='SRC', help=CHECKPOINT)
    parser.add_argument('destination', metavar='DST', nargs='?', help='the new file (.pth, or .safetensors)')
    parser.add_argument('--hub', metavar='DIR',
                        help='write a folder for the Hugging Face Hub, which timm and repvit_mm.get_model load')
    parser.add_argument('--to', choices=('repvit_mm', 'official', 'timm'), default='repvit_mm',
                        help='format of the new names (default: %(default)s)')
    parser.add_argument('--trust', action='store_true',
                        help='run code from SRC if it cannot be read otherwise; only for files that you trust')
    parser.add_argument('--overwrite', action='store_true', help='overwrite DST or DIR if it exists')
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    from repvit_mm.checkpoints import convert_file
    from repvit_mm.checkpoints.converting import write_hub_folder
    from repvit_mm.checkpoints.reading import WEIGHT_KEYS

    if args.hub:
        write_hub_folder(args.source, args.hub, args.trust, args.overwrite)
        print(f"{args.hub}: timm.create_model('local-dir:{args.hub}', pretrained=True) and "
              f"repvit_mm.get_model('{args.hub}') load it")
    elif args.destination is None:
        parser.error('expected DST or --hub DIR')
    if args.destination is None:
        return
    done = convert_file(args.source, args.destination, args.to, args.trust, args.overwrite)
    print(f'{args.source}: {done.source.arch}, {done.source}, {done.tensors} tensors')
    print(f'{args.destination}: {done.result}, {done.renamed} of {done.tensors} tensors renamed')
    averages = [name for name in done.left_out if name in WEIGHT_KEYS]
    rest = [name for name in done.left_out if name not in averages]
    if rest:
        print(f'left out, not weights: {", ".join(rest)}')
    if averages:
        print(f'left out, as only one set of weights is kept: {", ".join(averages)}')


if __name__ == '__main__':
    run_cli(main)
