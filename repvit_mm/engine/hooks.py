"""Hooks of every run: safe checkpoints, an orderly end, and a terminal that shows what matters."""
import contextlib
import io
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import mmengine.hooks
import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints import invalid_tensors, unwrapped
from ..errors import UserError
from ..toolboxes import toolbox_of
from .resuming import FollowScheduleHook, latest_checkpoint
from .unread import observed

#: Modules whose information is for the log file, except progress and metrics.
_SILENT = re.compile(r'(mmengine|mmcv|mmdet|mmseg|mmpretrain)\.(?!hooks\.logger_hook|evaluation)')
_NOISE = re.compile('FileClient|HardDiskBackend|The prefix is not set|Exp name|dataset metainfo from the resumed'
                    '|`save_param_scheduler` is True|is duplicate. It is skipped|^Evaluating |_mAP_copypaste')
#: The AP of each class in a line of metrics, which a table shows as well.
_OF_CLASSES = re.compile(r'  coco/(?:(?!  ).)+_precision: \S+')
#: Seconds without progress after which an iteration is logged.
PATIENCE = 20
_EMPTY = 'The testing results of the whole dataset is empty'


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


class LoggerHook(mmengine.hooks.LoggerHook):
    """mmengine's hook, which also logs where the last line is old: a slow machine takes minutes for an interval."""

    def before_run(self, runner: Runner) -> None:
        """Start the clock, in a single process: for a line, all processes of a run exchange figures."""
        super().before_run(runner)
        self._logged, self._patience = time.monotonic(), math.inf if runner.distributed else PATIENCE

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether a line is due, by mmengine's rule or the clock, which then starts again."""
        now = time.monotonic()
        is_due = super().every_n_inner_iters(batch_idx, n) or now - self._logged > self._patience
        self._logged = now if is_due else self._logged
        return is_due


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


def is_shown(record: logging.LogRecord) -> bool:
    """Whether the terminal shows a log record; a filter of its handler."""
    text = record.getMessage()
    if text.startswith(_EMPTY):  # of an early epoch perhaps, and no error of this run
        record.levelno, record.levelname = logging.WARNING, 'WARNING'
    if _OF_CLASSES.search(text):
        record.msg, record.args = _OF_CLASSES.sub('', text), ()
    if _NOISE.search(text) or record.levelno >= logging.WARNING:
        return not _NOISE.search(text)
    frame = sys._getframe(1)
    while frame and re.match(r'logging\b|mmengine\.logging', frame.f_globals.get('__name__', '')):
        frame = frame.f_back
    return not (frame and _SILENT.match(frame.f_globals.get('__name__', '')))


def quietly(function: Callable) -> Callable:
    """Silence a function: pycocotools prints every step."""
    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*arguments, **settings)
    return call


class SummaryHook(Hook):
    """Logs a summary of the training, unread settings, and the checkpoint to test."""

    _has_validated = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save class names and settings of optimiser groups, which come from the config, under plain keys."""
        for key in checkpoint.keys() & {'meta', 'message_hub', 'optimizer', 'param_schedulers'}:
            checkpoint[key] = observed(checkpoint[key], str)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Name settings of the model's evaluation that nothing has read, once."""
        if not self._has_validated:
            runner.report_unread('val')
        self._has_validated = True

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Name settings of a test that nothing has read."""
        if batch_idx == 0:
            runner.report_unread('test')

    def before_train(self, runner: Runner) -> None:
        """Log model, data, batch and device."""
        model = unwrapped(runner.model)
        counts = [sum(p.numel() for p in model.parameters() if p.requires_grad or not trained) for trained in (0, 1)]
        loaders = [runner.train_dataloader, *([runner.val_dataloader] if runner.val_loop else [])]
        data = ', '.join(f'{len(loader.dataset)} samples to {verb}'
                         for loader, verb in zip(loaders, ('train', 'validate'), strict=False))
        device = next(model.parameters()).device
        threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
        for line in (f'model: {type(model).__name__}, {counts[0] / 1e6:.2f} M parameters, {counts[1] / 1e6:.2f} M of '
                     'them trained', f'data: {data}', _batch(runner), f'device: {device}{threads}'):
            print_log(line, 'current')
        if runner.iter >= runner.max_iters:
            print_log('this training is complete; make it longer to continue it', 'current', logging.WARNING)

    def after_train(self, runner: Runner) -> None:
        """Name the best checkpoint, else the last, and the command that tests it."""
        known = runner.message_hub.runtime_info
        path, score = known.get('best_ckpt') or latest_checkpoint(runner.work_dir), known.get('best_score')
        if path and runner.cfg.filename:
            config = os.path.join(runner.work_dir, os.path.basename(runner.cfg.filename))  # with all options
            which = 'last' if score is None else f'best ({score:.4g})'
            report = f' --report {os.path.join(runner.work_dir, "report")}' if toolbox_of(runner.cfg).task else ''
            print_log(f'{which} checkpoint: {path}\nnext: repvit-mm test {config} {path}{report}', 'current')


#: Hooks of every run.
ADDED = (StopOnInvalidLossHook, StopOnSignalHook, FollowScheduleHook, SummaryHook)
#: Hook of mmengine, or its name -> ours.
REPLACED = {kind: ours for ours in (CheckpointHook, LoggerHook) for kind in (ours.__name__, ours.__base__)}


def _batch(runner: Runner) -> str:
    """The batch of this run, and the one that the learning rate is for."""
    scaling = runner.cfg.get('auto_scale_lr') or {}
    batch = (runner.train_dataloader.batch_size or 1) * runner.world_size
    rate, base = runner.cfg.optim_wrapper.get('optimizer', {}).get('lr', 0.), scaling.get('base_batch_size')
    rate *= batch / base if base and scaling.get('enable') else 1
    note = f', scaled from {base}' if scaling.get('enable') else f', of a run with {base}' if base else ''
    advice = '; --auto-scale-lr adapts it' if base and base != batch and not scaling.get('enable') else ''
    return f'batch: {batch} samples, learning rate {rate:g}{note}{advice}'
