"""Measure exported files beside PyTorch: tools/export_table.py CONFIG CHECKPOINT FILE... --shape H W."""
from pathlib import Path

from repvit_mm.analysis.exported import HEADER, Job, measure, write_rows
from repvit_mm.cli.arguments import CHECKPOINT, Parser, add_shape, positive
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Size, accuracy and latency of exported files of a model.')
    parser.add_argument('config', help='config of the model, whose test data give the accuracy')
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE', help='what was exported from them')
    add_shape(parser)
    parser.add_argument('--data-root', metavar='DIR',
                        help='where the test data are (default: where the config says)')
    parser.add_argument('--pictures', nargs='+', default=(), metavar='FILE',
                        help='the first one is timed (default: a photograph that comes with matplotlib)')
    parser.add_argument('--threads', type=positive, default=2, metavar='N',
                        help='CPU threads of each engine (default: %(default)s)')
    parser.add_argument('--write', type=Path, metavar='DOCUMENT', help='put the rows into the table of this document')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    rows = measure(Job(args.config, args.checkpoint, args.data_root, tuple(args.shape), args.pictures, args.threads),
                   args.files)
    print(HEADER, *(f'| {" | ".join(row)} |' for row in rows), sep='\n')
    if args.write:
        write_rows(rows, args.write)


if __name__ == '__main__':
    run_cli(main)
