"""Hooks of every training: safe checkpoints, and an orderly end if the loss diverges or the scheduler stops the run."""
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints import invalid_tensors
from ..errors import UserError
from .prepare import latest_checkpoint


class LateRemoval(LocalBackend):
    """The local file system, but files to be removed stay until :meth:`remove_outdated`."""

    def __init__(self) -> None:
        self._outdated: list[tuple[str, int]] = []

    def remove(self, filepath: str | Path) -> None:
        """Note a file, and which one it is: a new one may take its name."""
        self._outdated.append((str(filepath), os.stat(filepath).st_ino))

    def remove_outdated(self) -> None:
        """Remove the files, unless they have been overwritten."""
        for path, inode in self._outdated:
            if os.path.exists(path) and os.stat(path).st_ino == inode:
                os.remove(path)
        self._outdated.clear()


class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's hook, but an outdated checkpoint is removed only after the new one is complete.

    mmengine removes first: if the run is killed before the new one is written, none is left.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare the directory of the checkpoints."""
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.file_backend = runner.outdated


class StopOnSignalHook(Hook):
    """On SIGTERM, saves a checkpoint at the end of the iteration and ends the run with status 143.

    Schedulers send it before SIGKILL. In a distributed run the main process saves; without it, the others end.
    """

    priority = 'LOWEST'  # after the CheckpointHook

    def before_train(self, runner: Runner) -> None:
        """Start to listen."""
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask if is_main_process() else signal.SIG_IGN)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Save, and leave the training."""
        if self._asked:
            name = f'iter_{runner.iter + 1}.pth'
            runner.save_checkpoint(runner.work_dir, name, by_epoch=False)
            path = Path(runner.work_dir, name)
            (path.parent / 'last_checkpoint').write_text(str(path))
            print(f'terminated; the same command with --resume continues from {path}', file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM)

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@HOOKS.register_module()
class StopOnInvalidLossHook(Hook):
    """Ends a training whose loss or weights are no longer finite, and does not save such weights.

    The loss is read in each iteration, as mmengine does for its log; the weights when they are saved.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Check the loss.

        Raises:
            UserError: If it is infinite or not a number.
        """
        outputs = outputs or {}
        loss = _number(outputs.get('loss', 0.))
        if math.isfinite(loss):
            return
        parts = [name for name, value in outputs.items()
                 if 'loss' in name and name != 'loss' and not math.isfinite(_number(value))]
        where = f' ({", ".join(parts)})' if parts else ''
        self._stop(runner, f'the loss{where} is {loss}', runner.iter + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights.

        Raises:
            UserError: If any of them is infinite or not a number.
        """
        weights = checkpoint['state_dict']
        if bad := invalid_tensors(weights):
            self._stop(runner, f'{len(bad)} of {len(weights)} tensors of the model hold values that are infinite or '
                       f'not a number, first {bad[0]}, and are not saved', checkpoint['meta']['iter'])

    @staticmethod
    def _stop(runner: Runner, what: str, iteration: int) -> None:
        latest = latest_checkpoint(runner.work_dir)
        kept = f'the last good checkpoint is {latest}' if latest else 'no checkpoint had been saved yet'
        raise UserError(f'training diverged and stops: after iteration {iteration} {what}; {kept}; lower the learning '
                        'rate (optim_wrapper.optimizer.lr) or clip the gradients (optim_wrapper.clip_grad)')


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value
