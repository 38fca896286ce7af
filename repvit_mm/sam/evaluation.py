"""The evaluations of ``tools/sam_eval.py``: each checks its data, and returns a function that evaluates a model."""
import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from rich.console import Console
from rich.progress import track
from segment_anything.modeling import Sam

from ..io.files import write_json
from ..io.images import read_image, write_png
from . import edge_benchmark, instances, pixels
from .edges import edge_map

Evaluation = Callable[[Sam], dict[str, float]]


def progress(values: Iterable, name: str) -> Iterable:
    return track(values, description=name, console=Console(stderr=True), transient=True)


def evaluate_coco(args: argparse.Namespace) -> Evaluation:
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


def evaluate_seginw(args: argparse.Namespace) -> Evaluation:
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


def evaluate_duts(args: argparse.Namespace) -> Evaluation:
    pairs = pixels.duts_images(args.data_root)[:args.limit]
    return lambda sam: pixels.evaluate_duts(sam, progress(pairs, 'images'), args.points_per_side)


def evaluate_mvtec(args: argparse.Namespace) -> Evaluation:
    classes = pixels.mvtec_images(args.data_root)
    boxes = {image: found[:args.top] for image, found in instances.read_boxes(args.boxes).items()}

    def run(sam: Sam) -> dict[str, float]:
        figures = {name: pixels.evaluate_mvtec(sam, progress(images[:args.limit], name), boxes, args.data_root)
                   for name, images in classes.items()}
        return {**figures, 'mean F1': float(np.mean(list(figures.values())))}
    return run


def evaluate_bsds500(args: argparse.Namespace) -> Evaluation:
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


EVALUATORS = {'coco': evaluate_coco, 'bsds500': evaluate_bsds500, 'seginw': evaluate_seginw, 'duts': evaluate_duts,
               'mvtec': evaluate_mvtec}
