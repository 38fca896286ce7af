"""Zero-shot evaluation of SAMs: tools/sam_eval.py {coco,bsds500,seginw,duts,mvtec} --data-root DIR [options]."""
import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from segment_anything.modeling import Sam

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, positive
from repvit_mm.cli.sam import add_model_arguments, grid, model_from
from repvit_mm.errors import UserError, run_cli
from repvit_mm.io.files import make_folder, write_json
from repvit_mm.io.images import read_image, write_png
from repvit_mm.sam import edge_benchmark, instances, pixels
from repvit_mm.sam.edges import edge_map

#: Data set -> default folder, points per side, ranking and number of boxes of an image.
DATA_SETS = {'coco': ('data/coco', None, 'product', 300), 'bsds500': ('data/BSDS500', 16, None, None),
             'seginw': ('data/seginw', None, 'detector', 100), 'duts': ('data/DUTS/DUTS-TE', 32, None, None),
             'mvtec': ('data/mvtec', None, None, 100)}


def build_parser() -> Parser:
    parser = Parser(description='Evaluate a SAM on data sets it was not trained on; docs/sam.md has the protocols.')
    parser.add_argument('data_set', choices=DATA_SETS, help='what to evaluate on')
    parser.add_argument('--data-root', type=Path, metavar='DIR', help='folder of the data set (default: data/NAME)')
    parser.add_argument('--split', metavar='NAME', help='part of COCO (default: val2017) or BSDS500 (default: test)')
    parser.add_argument('--boxes', type=Path, metavar='FILE',
                        help="a detector's results in COCO's format (for seginw a folder of SET.bbox.json); COCO's "
                             'annotated boxes by default')
    parser.add_argument('--ranking', choices=instances.RANKINGS,
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
    root, points, ranking, top = DATA_SETS[args.data_set]
    args.data_root = args.data_root or Path(root)
    args.points_per_side, args.top = args.points_per_side or points, args.top or top
    args.ranking, args.out = args.ranking or ranking, args.out or Path(f'outputs/sam_{args.data_set}')
    if args.data_set in ('seginw', 'mvtec') and args.boxes is None:
        raise UserError(f"--boxes: {args.data_set} needs a detector's boxes; docs/sam.md says how to make them")
    evaluate = EVALUATIONS[args.data_set](args)  # checks the data before the model is built
    sam = model_from(args)
    make_folder(args.out, '--out')
    figures = evaluate(sam)
    write_json(args.out / 'metrics.json', {**figures, 'encoder': args.encoder, 'checkpoint': args.checkpoint,
                                           'boxes': args.boxes and str(args.boxes), 'ranking': args.ranking})
    print(', '.join(f'{name} {value:.3f}' for name, value in figures.items()) + f' ({args.out}/metrics.json)')


def progress(values: Iterable, name: str) -> Iterable:
    return track(values, description=name, console=Console(stderr=True), transient=True)


def evaluate_coco(args: argparse.Namespace) -> Any:
    folder = args.data_root / (args.split or 'val2017')
    coco = instances.load_annotations(args.data_root / 'annotations' / f'instances_{folder.name}.json', folder)
    prompts = (instances.detected_boxes(args.boxes, coco, args.top) if args.boxes else
               instances.ground_truth_boxes(coco))
    ids = sorted(coco.imgs)[:args.limit]

    def run(sam: Sam) -> dict[str, float]:
        results = instances.segment_instances(sam, coco, folder, prompts, progress(ids, 'images'), args.ranking)
        write_json(args.out / 'results.segm.json', results)
        return instances.evaluate(coco, results, ids)
    return run


def evaluate_seginw(args: argparse.Namespace) -> Any:
    sets = instances.seginw_sets(args.data_root, args.boxes)
    prompts = {name: instances.detected_boxes(boxes, coco, args.top) for name, (coco, _, boxes) in sets.items()}

    def run(sam: Sam) -> dict[str, float]:
        figures = {}
        for name, (coco, folder, _) in sets.items():
            ids = sorted(coco.imgs)[:args.limit]
            results = instances.segment_instances(sam, coco, folder, prompts[name], progress(ids, name), args.ranking)
            figures[name] = instances.evaluate(coco, results, ids)['AP'] if results else 0.
        return {**figures, 'mean AP': float(np.mean(list(figures.values())))}
    return run


def evaluate_duts(args: argparse.Namespace) -> Any:
    pairs = pixels.duts_images(args.data_root)[:args.limit]
    return lambda sam: pixels.evaluate_duts(sam, progress(pairs, 'images'), args.points_per_side)


def evaluate_mvtec(args: argparse.Namespace) -> Any:
    classes = pixels.mvtec_images(args.data_root)
    boxes = {image: found[:args.top] for image, found in instances.read_boxes(args.boxes).items()}

    def run(sam: Sam) -> dict[str, float]:
        figures = {name: pixels.evaluate_mvtec(sam, progress(images[:args.limit], name), boxes, args.data_root)
                   for name, images in classes.items()}
        return {**figures, 'mean F1': float(np.mean(list(figures.values())))}
    return run


def evaluate_bsds500(args: argparse.Namespace) -> Any:
    pairs = edge_benchmark.bsds_images(args.data_root, args.split or 'test')[:args.limit]
    for _, annotation in pairs:
        edge_benchmark.load_boundaries(annotation)

    def run(sam: Sam) -> dict[str, float]:
        maps = [args.out / f'{path.stem}.png' for path, _ in pairs]
        for (path, _), map_path in zip(progress(pairs, 'edge maps'), maps, strict=True):
            edges = edge_map(sam, read_image(path), args.points_per_side)
            write_png(map_path, np.round(edges * 255).astype(np.uint8))
        thresholds = np.arange(1, args.thresholds + 1) / (args.thresholds + 1)
        jobs = maps, [annotation for _, annotation in pairs], [thresholds] * len(maps)
        with ProcessPoolExecutor(min(args.workers, len(maps)), get_context('spawn')) as pool:
            counts = list(pool.map(edge_benchmark.count_file, *jobs))
        return edge_benchmark.score(counts, thresholds)._asdict()
    return run


EVALUATIONS = {'coco': evaluate_coco, 'bsds500': evaluate_bsds500, 'seginw': evaluate_seginw, 'duts': evaluate_duts,
               'mvtec': evaluate_mvtec}

if __name__ == '__main__':
    run_cli(main)
