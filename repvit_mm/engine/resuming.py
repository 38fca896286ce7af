"""Resuming a training: the checkpoint, its seed, and the schedules of the config."""
import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner

from ..checkpoints import check_finite, meta_of, read_checkpoint, tensors_of
from ..errors import CheckpointError


def read_resumed(cfg: Config) -> Any:
    """Read the checkpoint of an earlier run that a training resumes, and take its seed: it orders the samples.

    Args:
        cfg: ``resume`` is a path, or ``'auto'`` for the last readable checkpoint in the work directory, or True for
            ``load_from`` or the last checkpoint, if there is one. It becomes a boolean, and ``load_from`` the path.

    Returns:
        Content of the checkpoint, or None.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    resume = cfg.get('resume')
    if resume is True:
        resume = cfg.get('load_from') or ('auto' if checkpoints_of(cfg.work_dir) else None)
    cfg.resume = bool(resume)
    if not resume:
        return None
    path, checkpoint = _last_readable(cfg.work_dir) if resume == 'auto' else (resume, read_checkpoint(resume))
    cfg.load_from = str(path)
    seed, randomness = meta_of(checkpoint).get('seed'), cfg.get('randomness') or {}
    if seed is not None:
        if randomness.get('seed') not in (None, seed):
            print_log(f'{path} is from a run with the seed {seed}, which replaces {randomness["seed"]}', 'current',
                      logging.WARNING)
        cfg.randomness = {**randomness, 'seed': seed}
    return checkpoint


def _last_readable(work_dir: str | Path) -> tuple[Path, Any]:
    """The last checkpoint that is complete and finite, and its content."""
    errors = []
    for path in checkpoints_of(work_dir):
        try:
            checkpoint = read_checkpoint(path)
            check_finite(tensors_of(checkpoint, path), path)
            return path, checkpoint
        except CheckpointError as error:
            print_log(f'{error}; trying the checkpoint before it', 'current', logging.WARNING)
            errors.append(error)
    raise errors[0] if errors else CheckpointError(
        f'nothing to resume: there is no checkpoint in {work_dir}; leave out --resume to start, or name a --work-dir '
        'or a checkpoint')


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The last checkpoint in a work directory, or None."""
    return next(iter(checkpoints_of(work_dir)), None)


def checkpoints_of(work_dir: str | Path) -> list[Path]:
    """The checkpoints in a work directory: the one that ``last_checkpoint`` names, then the newest first."""
    work_dir = Path(work_dir)
    found = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    with suppress(OSError, ValueError):  # its content is not a path
        text = pointer.read_text().strip() if pointer.is_file() else ''
        for path in (work_dir / Path(text).name, Path(text)):  # a copied run resumes from its own checkpoint
            if text and path.is_file():
                return [path, *(other for other in found if other != path)]
    return found


class FollowScheduleHook(Hook):
    """Lets a resumed training follow the schedules of its config; mmengine restores those of the checkpoint."""

    _is_restored = True

    def before_run(self, runner: Runner) -> None:
        """Note the schedules of the config."""
        self._wanted = [_settings(scheduler) for scheduler in _schedulers(runner)]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note whether the checkpoint has schedules."""
        self._is_restored = 'param_schedulers' in checkpoint

    def before_train(self, runner: Runner) -> None:
        """Replace restored schedules that have other settings: step those of the config from the start."""
        restored = _schedulers(runner)
        is_same = self._is_restored and [_settings(scheduler) for scheduler in restored] == self._wanted
        if not runner.iter or not restored or is_same:
            return
        for group in runner.optim_wrapper.param_groups:
            group.update({name.removeprefix('initial_'): value for name, value in group.items()
                          if name.startswith('initial_')})
        runner.param_schedulers = schedulers = runner.build_param_scheduler(runner.cfg.param_scheduler)
        length = len(runner.train_dataloader)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch's, that the optimiser has made no step
            for done in range(1, runner.iter + 1):
                due = [False] + [True] * (done % length == 0 and done // length <= runner.epoch)
                for scheduler in [scheduler for kind in due for scheduler in schedulers if scheduler.by_epoch is kind]:
                    scheduler.step()
        print_log('the schedules differ from those of the checkpoint: the learning rate follows those of this config',
                  'current')


def _schedulers(runner: Runner) -> list[_ParamScheduler]:
    """The schedules that can be stepped anew."""
    found = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    return found if all(isinstance(scheduler, _ParamScheduler) and not getattr(scheduler, 'need_val_args', False)
                        for scheduler in found) else []


def _settings(scheduler: _ParamScheduler) -> dict[str, Any]:
    """The attributes of a schedule that its steps do not change."""
    return {name: value for name, value in vars(scheduler).items()
            if name[0] != '_' and name not in ('optimizer', 'base_values', 'last_step')}
