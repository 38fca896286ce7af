"""The steps of the quickstart: data set, training of a Mask R-CNN, fusion, the report of its test."""
import json
import shutil
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from ..datasets.shapes import write_coco
from ..engine.prepare import move_data_root
from ..engine.resuming import latest_checkpoint
from ..errors import UserError
from ..models.deploy import FusedCheckpoint, fuse_checkpoint
from ..zoo.processes import run_tool


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
        self.config, self.report = work_dir / 'config.py', work_dir / 'report.html'
        move_data_root(cfg, str(self.data))
        cfg.randomness = dict(seed=seed)

    def train(self, fresh: bool = False) -> Path:
        """Draw the data set and train, or resume a training of the same config.

        Args:
            fresh: Replace an earlier training.

        Returns:
            The checkpoint.

        Raises:
            UserError: If the folder holds other files or the training of another config, or the training fails.
        """
        known = self.config.is_file()
        if not known and self.training.exists() and any(self.training.iterdir()):
            raise UserError(f'{self.training} holds files that are not from a quickstart: move them, or use another '
                            '--work-dir')
        if known and not fresh and self.config.read_text() != self.cfg.pretty_text:
            raise UserError(f'{self.work_dir} holds a quickstart with other settings: --fresh replaces it, or use '
                            'another --work-dir')
        if fresh:
            shutil.rmtree(self.training, ignore_errors=True)
        write_coco(self.data, seed=self.seed, train=self.scenes[0], val=self.scenes[1])
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

    def fuse(self, checkpoint: Path) -> FusedCheckpoint:
        """Fuse a trained detector, beside the log of its training; its outputs are checked to stay the same."""
        return fuse_checkpoint(self.config, checkpoint, self.training / 'fused.pth')

    def test(self, checkpoint: Path) -> dict[str, float]:
        """Test a checkpoint on the held-out scenes, with a report; returns metric -> value."""
        folder = self.work_dir / 'test'
        shutil.rmtree(folder, ignore_errors=True)
        self._run('test.py', folder, checkpoint, '--report', self.report.parent)
        metrics, = folder.glob('*/*.json')
        return json.loads(metrics.read_text())

    def _run(self, tool: str, work_dir: Path, *arguments: str | Path) -> None:
        run_tool(self.tools / tool, [self.config, *arguments, '--work-dir', work_dir], work_dir / 'output.log',
                 self.console)
