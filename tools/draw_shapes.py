"""Draw the embedded data set in the layout of a toolbox: tools/draw_shapes.py {detection,segmentation,...} DIR."""
from pathlib import Path

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, positive, seed
from repvit_mm.errors import run_cli

#: Keys of repvit_mm.datasets.shapes.LAYOUTS, which loads numpy and Pillow.
LAYOUTS = ('detection', 'segmentation', 'classification')


def build_parser() -> Parser:
    parser = Parser(
        description='Draw scenes of geometric objects, for the configs in configs/quickstart. The same seed gives the '
                    'same scenes; a complete folder is not drawn again.')
    parser.add_argument('layout', choices=LAYOUTS, help='the task; gives the layout that its toolbox reads')
    parser.add_argument('folder', metavar='DIR', type=Path, help='folder of the data set')
    parser.add_argument('--train', type=positive, default=1200, metavar='N',
                        help='scenes to train on (default: %(default)s)')
    parser.add_argument('--val', type=positive, default=150, metavar='N', help='held-out scenes (default: %(default)s)')
    parser.add_argument('--seed', type=seed, default=0, metavar='N', help='seed of the scenes (default: %(default)s)')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.datasets.shapes import write_shapes
    print(write_shapes(args.layout, args.folder, seed=args.seed, train=args.train, val=args.val))


if __name__ == '__main__':
    run_cli(main)
