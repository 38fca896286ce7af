"""What the terminal shows of a run: what is run, its progress and its results. The log file has everything."""
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from .unread import observed

#: Modules whose information is for the log file, except progress and metrics.
_SILENT = re.compile(r'(mmengine|mmcv|mmdet|mmseg|mmpretrain)\.(?!hooks\.logger_hook|evaluation)')
_NOISE = re.compile('FileClient|HardDiskBackend|The prefix is not set|Exp name|dataset metainfo from the resumed'
                    '|`save_param_scheduler` is True')
_EMPTY = 'The testing results of the whole dataset is empty'


def is_shown(record: logging.LogRecord) -> bool:
    """Whether the terminal shows a log record; a filter of its handler."""
    text = record.getMessage()
    if text.startswith(_EMPTY):  # of an early epoch perhaps, and no error of this run
        record.levelno, record.levelname = logging.WARNING, 'WARNING'
    if _NOISE.search(text) or record.levelno >= logging.WARNING:
        return not _NOISE.search(text)
    frame = sys._getframe(1)
    while frame and re.match(r'logging\b|mmengine\.logging', frame.f_globals.get('__name__', '')):
        frame = frame.f_back
    return not (frame and _SILENT.match(frame.f_globals.get('__name__', '')))


def quietly(function: Callable) -> Callable:
    """A function without what it prints: pycocotools reports every step."""
    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*arguments, **settings)
    return call


class SummaryHook(Hook):
    """Says at the start of a training what is trained, and after evaluations which settings nothing has read."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save names of classes under ordinary keys, not those of an observed config."""
        checkpoint['meta']['dataset_meta'] = observed(checkpoint['meta'].get('dataset_meta'), str)

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
        """Say what is trained: model, data, batch and device."""
        self._has_validated = False
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        counts = [sum(p.numel() for p in model.parameters() if p.requires_grad or not trained) for trained in (0, 1)]
        loaders = [runner.train_dataloader, *([runner.val_dataloader] if runner.val_loop else [])]
        data = ', '.join(f'{len(loader.dataset)} samples to {verb}'
                         for loader, verb in zip(loaders, ('train', 'validate'), strict=False))
        device = next(model.parameters()).device
        threads = torch.get_num_threads()
        for line in (f'model: {type(model).__name__}, {counts[0] / 1e6:.2f} M parameters, {counts[1] / 1e6:.2f} M of '
                     f'them trained', f'data: {data}', _batch(runner),
                     f'device: {device}' + (f', {threads} threads' if device.type == 'cpu' else '')):
            print_log(line, 'current')
        cores = os.cpu_count() or 1
        if device.type == 'cpu' and threads > 1 and os.getloadavg()[0] > cores / 2:
            print_log(f'the machine is busy, with a load of {os.getloadavg()[0]:.1f} on {cores} cores: '
                      'OMP_NUM_THREADS=1 may be faster', 'current', logging.WARNING)


def _batch(runner: Runner) -> str:
    """The batch of this run, and the one that the learning rate is for."""
    loader, scaling = runner.train_dataloader, runner.cfg.get('auto_scale_lr') or {}
    batch = runner.cfg.train_dataloader.get('batch_size', loader.batch_size) * runner.world_size
    rate, base = runner.cfg.optim_wrapper.get('optimizer', {}).get('lr', 0.), scaling.get('base_batch_size')
    note = f', scaled from {base}' if scaling.get('enable') else f', of a run with {base}' if base else ''
    advice = '; --auto-scale-lr adapts it' if base and base != batch and not scaling.get('enable') else ''
    return f'batch: {batch} samples, learning rate {rate:g}{note}{advice}'
