"""Saves checkpoints so that there is always one to resume from."""
import os
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner

from ..io.files import atomic_write


class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's hook, which here removes an outdated checkpoint only after the new one is complete.

    mmengine removes first: whatever ends the run before the new one is written then leaves none.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare the directory of the checkpoints."""
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend):
            self.file_backend = _LateRemoval()

    def after_train_epoch(self, runner: Runner) -> None:
        """Save at the end of an epoch, if it is time."""
        super().after_train_epoch(runner)
        self._remove_outdated()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Save after an iteration, if it is time."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._remove_outdated()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint so far, if the config asks for it."""
        super().after_val_epoch(runner, metrics)
        self._remove_outdated()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Save, and let the file ``last_checkpoint`` name the new checkpoint, in one step as well."""
        if not is_main_process():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        with atomic_write(Path(runner.work_dir, 'last_checkpoint')) as pointer:
            super()._save_checkpoint_with_step(_WorkDir(runner, pointer.parent), step, meta)

    def _remove_outdated(self) -> None:
        if isinstance(self.file_backend, _LateRemoval):
            self.file_backend.remove_outdated()


class _WorkDir:
    """A runner with another work directory."""

    def __init__(self, runner: Runner, work_dir: Path):
        self._runner, self.work_dir = runner, work_dir

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class _LateRemoval(LocalBackend):
    """The local file system, where files to be removed stay until :meth:`remove_outdated`."""

    def __init__(self) -> None:
        self._outdated: list[tuple[str, int]] = []

    def remove(self, filepath: str | Path) -> None:
        self._outdated.append((str(filepath), os.stat(filepath).st_ino))

    def remove_outdated(self) -> None:
        for path, inode in self._outdated:
            # Another inode: a new checkpoint of the same name has taken its place.
            if os.path.exists(path) and os.stat(path).st_ino == inode:
                os.remove(path)
        self._outdated.clear()
