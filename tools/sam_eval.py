"""Zero-shot evaluation of SAMs: tools/sam_eval.py {coco,bsds500,seginw,duts,mvtec} --data-root DIR [options]."""
import os
from pathlib import Path

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, positive
from repvit_mm.cli.sam import add_model_arguments, grid, model_from
from repvit_mm.errors import UserError, run_cli

#: Data set -> default folder, points per side, ranking and number of boxes of an image.
DATA_SETS = {'coco': ('data/coco', None, 'product', 300), 'bsds500': ('data/BSDS500', 16, None, None),
             'seginw': ('data/seginw', None, 'detector', 100), 'duts': ('data/DUTS/DUTS-TE', 32, None, None),
             'mvtec': ('data/mvtec', None, None, 100)}


def build_parser() -> Parser:
    parser = Parser(description='Evaluate a SAM on data sets it was not trained on; docs/sam.md has the protocols.')
    parser.add_argument('data_set', choices=DATA_SETS, help='data set to evaluate on')
    parser.add_argument('--data-root', type=Path, metavar='DIR', help='folder of the data set (default: data/NAME)')
    parser.add_argument('--split', metavar='NAME', help='part of COCO (default: val2017) or BSDS500 (default: test)')
    parser.add_argument('--boxes', type=Path, metavar='FILE',
                        help="a detector's results in COCO's format (for seginw a folder of SET.bbox.json); COCO's "
                             'annotated boxes by default')
    parser.add_argument('--ranking', choices=('product', 'detector'),
                        help="score of a mask: the detector's score x predicted IoU (default for coco), or the "
                             "detector's score (default for seginw)")
    parser.add_argument('--top', type=positive, metavar='N',
                        help='boxes of an image, the best first (default: 300 for coco, else 100)')
    parser.add_argument('--points-per-side', type=grid, metavar='N',
                        help='prompt with a grid of N x N points (default: 16 for bsds500, 32 for duts)')
    parser.add_argument('--thresholds', type=positive, default=99, metavar='N',
                        help='number of thresholds for bsds500 (default: %(default)s)')
    parser.add_argument('--limit', type=positive, metavar='N', help='only the first N images (of each set or class)')
    parser.add_argument('--workers', type=positive, default=os.cpu_count(), metavar='N',
                        help='processes for matching edges (default: one for each core)')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='folder of results and metrics (default: outputs/sam_NAME)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.io.files import make_folder, write_json
    from repvit_mm.sam.evaluation import EVALUATORS
    root, points, ranking, top = DATA_SETS[args.data_set]
    args.data_root = args.data_root or Path(root)
    args.points_per_side, args.top = args.points_per_side or points, args.top or top
    args.ranking, args.out = args.ranking or ranking, args.out or Path(f'outputs/sam_{args.data_set}')
    if args.data_set in ('seginw', 'mvtec') and args.boxes is None:
        raise UserError(f"--boxes: {args.data_set} needs a detector's boxes; docs/sam.md explains how to create them")
    evaluate = EVALUATORS[args.data_set](args)  # checks the data before the model is built
    sam = model_from(args)
    make_folder(args.out, '--out')
    figures = evaluate(sam)
    write_json(args.out / 'metrics.json', {**figures, 'encoder': args.encoder, 'checkpoint': args.checkpoint,
                                           'boxes': args.boxes and str(args.boxes), 'ranking': args.ranking})
    print(', '.join(f'{name} {value:.3f}' for name, value in figures.items()) + f' ({args.out}/metrics.json)')


if __name__ == '__main__':
    run_cli(main)
