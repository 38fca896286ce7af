"""Zero-shot edges of RepViT-SAM on BSDS500: tools/sam_eval_edges.py --data-root data/BSDS500 [options]."""
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import _interrupt  # noqa: F401
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from segment_anything.modeling import Sam

from repvit_mm.cli.arguments import Parser, positive
from repvit_mm.cli.sam import add_model_arguments, grid, model_from
from repvit_mm.errors import run_cli
from repvit_mm.io.files import make_folder, write_json
from repvit_mm.io.images import write_png
from repvit_mm.sam import read_image
from repvit_mm.sam.edge_benchmark import Counts, count_file, list_pictures, load_boundaries, score
from repvit_mm.sam.edges import edge_map


def build_parser() -> Parser:
    parser = Parser(description='Detect edges from the masks of RepViT-SAM, and run the benchmark of '
                                'BSDS500.')
    parser.add_argument('--data-root', type=Path, default=Path('data/BSDS500'), metavar='DIR',
                        help='folder with images/SPLIT/*.jpg and groundTruth/SPLIT/*.mat, directly or in data/ '
                             '(default: %(default)s)')
    parser.add_argument('--split', default='test', choices=('train', 'val', 'test'),
                        help='part of the data set (default: %(default)s)')
    parser.add_argument('--points-per-side', type=grid, default=16, metavar='N',
                        help='prompt with a grid of N x N points (default: %(default)s)')
    parser.add_argument('--thresholds', type=positive, default=99, metavar='N',
                        help='number of thresholds of the benchmark (default: %(default)s)')
    parser.add_argument('--limit', type=positive, metavar='N', help='only the first N images')
    parser.add_argument('--workers', type=positive, default=os.cpu_count(), metavar='N',
                        help='processes for matching edges (default: one for each core)')
    parser.add_argument('--out', type=Path, default=Path('outputs/sam_edges'), metavar='DIR',
                        help='folder of edge maps and metrics (default: %(default)s)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    pictures = list_pictures(args.data_root, args.split)[:args.limit]
    annotations = [annotation for _, annotation in pictures]
    for annotation in annotations:
        load_boundaries(annotation)  # report damaged files before the long computation
    sam, out = model_from(args), make_folder(args.out, '--out')
    maps = [out / f'{path.stem}.png' for path, _ in pictures]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for (path, _), map_path in zip(progress.track(pictures, description='edge maps'), maps, strict=True):
            _draw(sam, path, map_path, args.points_per_side)
        thresholds = np.arange(1, args.thresholds + 1) / (args.thresholds + 1)
        counts = list(progress.track(_count(maps, annotations, thresholds, args.workers), total=len(maps),
                                     description='matching'))
    scores = score(counts, thresholds)
    write_json(out / 'metrics.json', {
        **scores._asdict(), 'pictures': len(pictures), 'arch': args.arch, 'checkpoint': args.checkpoint})
    print(f'{len(pictures)} pictures: ODS {scores.ods:.3f} (at {scores.threshold:.2f}), OIS {scores.ois:.3f}, '
          f'AP {scores.ap:.3f} ({out}/metrics.json)')


def _draw(sam: Sam, path: Path, map_path: Path, points_per_side: int) -> None:
    edges = edge_map(sam, read_image(path), points_per_side)
    write_png(map_path, np.round(edges * 255).astype(np.uint8))


def _count(maps: list[Path], annotations: list[Path], thresholds: np.ndarray, workers: int) -> Iterator[Counts]:
    jobs = maps, annotations, [thresholds] * len(maps)
    if workers == 1:
        yield from map(count_file, *jobs)
        return
    with ProcessPoolExecutor(min(workers, len(maps)), get_context('spawn')) as pool:
        yield from pool.map(count_file, *jobs)


if __name__ == '__main__':
    run_cli(main)
