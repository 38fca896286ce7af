"""The steps of the quickstart: data set, training of a Mask R-CNN, its AP before and after fusion, pictures."""
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console

from ..datasets.shapes import write_coco
from ..engine.prepare import latest_checkpoint, move_data_root
from ..engine.processes import run_tool
from ..errors import UserError
from ..io.files import write_json
from ..models.deploy import FusedCheckpoint, fuse_checkpoint
from .quickstart_pictures import draw_detections, draw_losses

#: File beside the checkpoints: settings and duration of the training, and whether it is complete.
STATE = 'quickstart.json'
#: AP has three decimals; fusion may change the last one if two scores are nearly equal.
TOLERANCE = .002


@dataclass
class Quickstart:
    """The quickstart, step by step; each step leaves its result in the work directory.

    Attributes:
        cfg: Config of the training.
        tools: Directory of ``train.py`` and ``test.py``.
        work_dir: Directory of the results, including the data set.
        seed: Seed of the scenes and of the training.
        scenes: Numbers of training and of held-out scenes.
        console: Where to show progress.
    """

    cfg: Config
    tools: Path
    work_dir: Path
    seed: int
    scenes: tuple[int, int]
    console: Console = field(default_factory=Console)

    def __post_init__(self):
        move_data_root(self.cfg, str(self.data))
        self.cfg.randomness = dict(seed=self.seed)
        self.cfg.test_evaluator.outfile_prefix = str(self.work_dir / 'predictions')

    @property
    def data(self) -> Path:
        """Directory of the data set."""
        return self.work_dir / 'data'

    @property
    def training(self) -> Path:
        """Work directory of the training."""
        return self.work_dir / 'train'

    @property
    def config(self) -> Path:
        """The complete config in one file, for the tools."""
        return self.work_dir / 'config.py'

    def draw(self) -> None:
        """Draw the data set, unless it is complete."""
        train, val = self.scenes
        write_coco(self.data, seed=self.seed, train=train, val=val)

    def train(self, fresh: bool = False) -> Path:
        """Train, resume an interrupted training, or return the result of a finished one.

        A training with other settings is replaced.

        Args:
            fresh: Replace an earlier training in any case.

        Returns:
            The checkpoint.

        Raises:
            UserError: If the directory holds other files, or the training fails.
        """
        settings, state = self._settings(), self._state()
        if fresh or state['settings'] != settings:
            if state['settings']:
                self.console.print('  replacing an earlier training' + ('' if fresh else ' with other settings'))
            shutil.rmtree(self.training, ignore_errors=True)
            state = dict(settings=settings, seconds=0., done=False)
        checkpoint = latest_checkpoint(self.training)
        if state['done'] and checkpoint:
            self.console.print(f'  {checkpoint} is trained already; --fresh trains again')
            return checkpoint
        if checkpoint:
            self.console.print(f'  resuming from {checkpoint}')
        self._run_training(state, resume=checkpoint is not None)
        return latest_checkpoint(self.training)

    def evaluate(self, checkpoint: Path, name: str) -> dict[str, float]:
        """Test a checkpoint on the held-out scenes; the predictions of the last test are kept.

        Args:
            checkpoint: The checkpoint.
            name: Name of the test's directory.

        Returns:
            COCO metric -> value.
        """
        directory = self.work_dir / 'test' / name
        shutil.rmtree(directory, ignore_errors=True)
        self._run_tool('test.py', directory, checkpoint)
        metrics, = directory.glob('*/*.json')
        return json.loads(metrics.read_text())

    def fuse(self, checkpoint: Path) -> FusedCheckpoint:
        """Fuse a trained detector; its outputs are checked to stay the same."""
        return fuse_checkpoint(self.config, checkpoint, self.work_dir / 'fused.pth')

    def draw_pictures(self) -> tuple[Path, Path]:
        """Draw the losses of the training, and the predictions of the last test."""
        losses, predictions = self.work_dir / 'losses.png', self.work_dir / 'predictions.png'
        logs = sorted(self.training.glob('*/vis_data/scalars.json'))  # several, if the training was resumed
        draw_losses([json.loads(line) for log in logs for line in log.read_text().splitlines()], losses)
        draw_detections(self.work_dir / 'predictions.segm.json', self.data / 'annotations' / 'instances_val.json',
                        self.data / 'images' / 'val', predictions)
        return losses, predictions

    @property
    def training_seconds(self) -> float:
        """Duration of the training, including interrupted parts."""
        return self._state()['seconds']

    def _settings(self) -> dict[str, Any]:
        return dict(config=hashlib.sha256(self.cfg.pretty_text.encode()).hexdigest(), scenes=list(self.scenes))

    def _state(self) -> dict[str, Any]:
        path = self.training / STATE
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            if self.training.exists() and any(self.training.iterdir()):
                raise UserError(f'{self.training} holds files that are not from a quickstart: move them, or use '
                                'another --work-dir') from None
        except ValueError:  # damaged: train again
            pass
        return dict(settings=None, seconds=0., done=False)

    def _run_training(self, state: dict[str, Any], resume: bool) -> None:
        self.training.mkdir(parents=True, exist_ok=True)
        before, start = state['seconds'], time.monotonic()
        write_json(self.training / STATE, state)
        try:
            self._run_tool('train.py', self.training, *['--resume'] * resume)
            state['done'] = True
        except KeyboardInterrupt:
            self.console.print('  run the same command again to resume from the last checkpoint')
            raise
        finally:
            state['seconds'] = before + time.monotonic() - start
            write_json(self.training / STATE, state)

    def _run_tool(self, tool: str, work_dir: Path, *arguments: str | Path) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        self.cfg.dump(self.config)
        run_tool(self.tools / tool, [self.config, *arguments, '--work-dir', work_dir], work_dir / 'output.log',
                 self.console)


def check_unchanged(trained: Mapping[str, float], fused: Mapping[str, float]) -> None:
    """Raise a RuntimeError if fusion changed an AP, which would be a bug."""
    for key in trained:
        if '_mAP' in key and abs(trained[key] - fused[key]) > TOLERANCE:
            raise RuntimeError(f'fusion changed {key} from {trained[key]} to {fused[key]}')
