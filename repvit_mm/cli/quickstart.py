"""The steps of the quickstart: data set, training of a Mask R-CNN, its AP before and after fusion, drawings."""
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as mask_utils
from rich.console import Console

from ..datasets.shapes import CLASSES, write_coco
from ..engine.prepare import move_data_root
from ..engine.resuming import latest_checkpoint
from ..errors import UserError
from ..io.drawing import draw_objects
from ..models.deploy import FusedCheckpoint, fuse_checkpoint
from ..zoo.processes import run_tool

#: AP has three decimals; fusion may change the last one if two scores are nearly equal.
TOLERANCE = 0.002
#: Detections with a lower score are not drawn, nor those whose mask has a higher IoU with that of a better one.
SCORE, OVERLAP = 0.5, 0.5
#: Images in a row of the drawing.
COLUMNS = 4


class Quickstart:
    """The quickstart, step by step; each step leaves its result in the work folder.

    Args:
        cfg: Config of the training.
        tools: Folder of ``train.py`` and ``test.py``.
        work_dir: Folder of the results, including the data set.
        seed: Seed of the scenes and of the training.
        scenes: Numbers of training and of held-out scenes.
        console: Where to show progress.
    """

    def __init__(self, cfg: Config, tools: Path, work_dir: Path, seed: int, scenes: tuple[int, int], console: Console):
        self.cfg, self.tools, self.work_dir, self.seed, self.scenes, self.console = (
            cfg, tools, work_dir, seed, scenes, console)
        self.data, self.training = work_dir / 'data_{}_{}'.format(*scenes), work_dir / 'train'
        self.config = work_dir / 'config.py'
        move_data_root(cfg, str(self.data))
        cfg.randomness = dict(seed=seed)
        cfg.test_evaluator.outfile_prefix = str(work_dir / 'predictions')

    def draw(self) -> None:
        """Draw the data set, unless it is complete."""
        write_coco(self.data, seed=self.seed, train=self.scenes[0], val=self.scenes[1])

    def train(self, fresh: bool = False) -> Path:
        """Train, or resume a training of the same config; one of another config is replaced.

        Args:
            fresh: Replace an earlier training in any case.

        Returns:
            The checkpoint.

        Raises:
            UserError: If the folder holds other files, or the training fails.
        """
        known = self.config.is_file()
        if not known and self.training.exists() and any(self.training.iterdir()):
            raise UserError(f'{self.training} holds files that are not from a quickstart: move them, or use another '
                            '--work-dir')
        if known and (fresh or self.config.read_text() != self.cfg.pretty_text):
            self.console.print('  replacing an earlier training' + ' with other settings' * (not fresh))
            shutil.rmtree(self.training, ignore_errors=True)
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.cfg.dump(self.config)
        checkpoint = latest_checkpoint(self.training)
        if checkpoint:
            self.console.print(f'  resuming from {checkpoint}; --fresh trains again')
        try:
            self._run('train.py', self.training, *['--resume'] * (checkpoint is not None))
        except KeyboardInterrupt:
            self.console.print('  run the same command again to resume from the last checkpoint')
            raise
        return latest_checkpoint(self.training)

    def evaluate(self, checkpoint: Path, name: str) -> dict[str, float]:
        """Test a checkpoint on the held-out scenes, in the folder ``name``; gives metric -> value."""
        folder = self.work_dir / 'test' / name
        shutil.rmtree(folder, ignore_errors=True)
        self._run('test.py', folder, checkpoint)
        metrics, = folder.glob('*/*.json')
        return json.loads(metrics.read_text())

    def fuse(self, checkpoint: Path) -> FusedCheckpoint:
        """Fuse a trained detector; its outputs are checked to stay the same."""
        return fuse_checkpoint(self.config, checkpoint, self.work_dir / 'fused.pth')

    def draw_results(self) -> tuple[Path, Path]:
        """Draw the losses of the training, and the predictions of the last test."""
        losses, predictions = self.work_dir / 'losses.png', self.work_dir / 'predictions.png'
        logs = sorted(self.training.glob('*/vis_data/scalars.json'))  # several, if the training was resumed
        draw_losses([json.loads(line) for log in logs for line in log.read_text().splitlines()], losses)
        content = json.loads((self.data / 'annotations' / 'instances_val.json').read_text())
        draw_detections(json.loads((self.work_dir / 'predictions.segm.json').read_text()), content['images'],
                        self.data / 'images' / 'val', predictions)
        return losses, predictions

    def _run(self, tool: str, work_dir: Path, *arguments: str | Path) -> None:
        run_tool(self.tools / tool, [self.config, *arguments, '--work-dir', work_dir], work_dir / 'output.log',
                 self.console)


def check_unchanged(trained: Mapping[str, float], fused: Mapping[str, float]) -> None:
    """Raise a RuntimeError if fusion changed an AP, which would be a bug."""
    for key in trained:
        if '_mAP' in key and abs(trained[key] - fused[key]) > TOLERANCE:
            raise RuntimeError(f'fusion changed {key} from {trained[key]} to {fused[key]}')


def draw_losses(scalars: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the total loss and its parts over the iterations, from the lines of mmengine's ``scalars.json``."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout='constrained')
    axes = figure.subplots()
    for name in ['loss', *sorted({name for line in scalars for name in line if name.startswith('loss_')})]:
        points = [(line['step'], line[name]) for line in scalars if name in line]
        total = dict(color='black', linewidth=2.5) if name == 'loss' else {}
        axes.plot(*zip(*points, strict=True), label=name.removeprefix('loss_').replace('_', ' '), **total)
    axes.set(title='Mask R-CNN on RepViT, trained from random weights', xlabel='iteration', ylabel='loss', yscale='log')
    axes.grid(alpha=0.25, which='both')
    axes.legend(frameon=False, ncols=3)
    figure.savefig(path)


def draw_detections(found: Sequence[dict], images: Sequence[dict], folder: Path, path: Path) -> None:
    """Draw the detections of the first images; of several at one place, the one with the highest score.

    Args:
        found: Results in COCO format, with masks.
        images: The images of the annotations in COCO format.
        folder: Folder of the images.
        path: The PNG to write.
    """
    tiles = []
    for image in images[:3 * COLUMNS]:
        kept: list[dict] = []
        for one in sorted(found, key=lambda one: -one['score']):
            masks = [other['segmentation'] for other in kept]
            if (one['image_id'] == image['id'] and one['score'] >= SCORE and not (masks and mask_utils.iou(
                    [one['segmentation']], masks, [0] * len(masks)).max() > OVERLAP)):
                kept.append(one)
        objects = [dict(label=one['category_id'] - 1, score=one['score'], mask=one['segmentation'],
                        box=(one['bbox'][0], one['bbox'][1], one['bbox'][0] + one['bbox'][2],
                             one['bbox'][1] + one['bbox'][3]),
                        **{'class': CLASSES[one['category_id'] - 1]}) for one in kept]
        pixels = np.asarray(Image.open(folder / image['file_name']).convert('RGB'))
        tiles.append(np.pad(draw_objects(pixels, objects, smallest=384), ((4, 4), (4, 4), (0, 0)), constant_values=255))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i:i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(path)
