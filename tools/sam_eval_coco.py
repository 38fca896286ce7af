"""Zero-shot instance segmentation of RepViT-SAM on COCO: tools/sam_eval_coco.py --data-root data/coco [options]."""
from pathlib import Path

import _interrupt  # noqa: F401
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from repvit_mm.cli.arguments import Parser, finite, positive
from repvit_mm.cli.sam import add_model_arguments, model_from
from repvit_mm.errors import run_cli
from repvit_mm.io.files import make_folder, write_json
from repvit_mm.sam.instances import detected_boxes, evaluate, ground_truth_boxes, load_annotations, segment_instances


def build_parser() -> Parser:
    parser = Parser(description='Prompt RepViT-SAM with boxes, and compute the COCO AP of its masks.')
    parser.add_argument('--data-root', type=Path, default=Path('data/coco'), metavar='DIR',
                        help='folder with annotations/instances_SPLIT.json and SPLIT/ (default: %(default)s)')
    parser.add_argument('--split', default='val2017', metavar='NAME',
                        help='part of the data set (default: %(default)s)')
    parser.add_argument('--boxes', default='gt', metavar='FILE',
                        help="a detector's results in COCO's format, or gt for the annotated boxes "
                             '(default: %(default)s)')
    parser.add_argument('--score-threshold', type=finite(), default=0., metavar='P',
                        help='drop boxes of the detector with a lower score (default: %(default)s)')
    parser.add_argument('--limit', type=positive, metavar='N', help='only the first N images')
    parser.add_argument('--out', type=Path, default=Path('outputs/sam_coco'), metavar='DIR',
                        help='folder of results and metrics (default: %(default)s)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    folder = args.data_root / args.split
    coco = load_annotations(args.data_root / 'annotations' / f'instances_{args.split}.json', folder)
    prompts = (ground_truth_boxes(coco) if args.boxes == 'gt' else
               detected_boxes(args.boxes, coco, args.score_threshold))
    image_ids = sorted(coco.imgs)[:args.limit]
    sam, out = model_from(args), make_folder(args.out, '--out')
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task('images', total=len(image_ids))
        results = segment_instances(sam, coco, folder, prompts, image_ids,
                                    lambda count: progress.advance(task, count))
    write_json(out / 'results.segm.json', results)
    figures = evaluate(coco, results, image_ids)
    write_json(out / 'metrics.json', {
        **figures, 'images': len(image_ids), 'boxes': args.boxes, 'arch': args.arch, 'checkpoint': args.checkpoint})
    print(f'{len(results)} masks on {len(image_ids)} images: '
          + ', '.join(f'{name} {value:.1f}' for name, value in figures.items()) + f' ({out}/metrics.json)')


if __name__ == '__main__':
    run_cli(main)
