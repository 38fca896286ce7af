"""Training loops whose random numbers depend on the seed and the place in the training only.

mmengine's loops draw them from generators that run on from the start of a process: a resumed run goes on with other
numbers, each worker and each process has its own. Here the generators are seeded anew for each sample and for each
iteration. Nothing has to be saved for that, and neither the number of workers nor a validation changes anything.
"""
import ctypes
import logging
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from multiprocessing import active_children
from multiprocessing.util import Finalize
from threading import Timer
from typing import Any

import mmengine.runner
import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from ..errors import ConfigError
from .mistakes import layer_errors

#: Uses of random numbers. Each is part of the seed, so that no two share a stream.
SAMPLE, ITERATION, WEIGHTS = range(3)
#: Seconds without a batch until a warning.
PATIENCE = 120


def seed_all(*words: int) -> None:
    """Seed the generators of Python, NumPy and torch, on the CPU and on GPUs in use, with non-negative integers."""
    for_python, for_numpy, for_torch = map(int, np.random.SeedSequence(words).generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
    if torch.cuda.is_initialized():  # torch.manual_seed would note a stack trace for each call before that
        torch.cuda.manual_seed_all(for_torch)


class _PlacedBatches(Sampler):
    """Skips batches that are done, and pairs each index with the seed of its sample.

    The seed follows from the sample's place in the order of all processes: as mmengine's samplers deal the samples out
    in turns, a sample has the same numbers whichever process has it.
    """

    def __init__(self, batches: Sampler, seed: int):
        self.batches, self.seed = batches, seed
        self._start: tuple[int, int] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['batches'], name)

    def __len__(self) -> int:
        return len(self.batches)

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the next pass be that of an epoch, without its first batches."""
        self._start = epoch, batch

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        if self._start is None:  # mmengine 0.10 iterates once before the loop knows its first batch
            return
        (epoch, skipped), self._start, drawn = self._start, (0, 0), 0
        for number, batch in enumerate(self.batches):
            if number >= skipped:
                places = range(drawn * get_world_size() + get_rank(), 2**63, get_world_size())
                yield [(index, (self.seed, SAMPLE, epoch, place)) for index, place in zip(batch, places, strict=False)]
            drawn += len(batch)


def _load(dataset: Any, batch: Sequence[tuple[int, Sequence[int]]]) -> list[Any]:
    samples = []
    for index, words in batch:
        seed_all(*words)
        samples.append(dataset[index])
    return samples


def announce_waiting(loader: DataLoader, seconds: float = PATIENCE) -> Iterator[Any]:
    """The batches of a loader; a warning names the worker that has not given its batch for some time.

    torch notices a worker that has died, but not one that is stopped, or that waits for a file forever.
    """
    batches, number = iter(loader), 0

    def announce() -> None:
        workers = getattr(batches, '_workers', [])
        which = f'data worker {number % len(workers)} (process {workers[number % len(workers)].pid})' if workers else (
            'reading a batch')
        print_log(f'no batch for {seconds:g} s: waiting for {which}; is it stopped, or its file system?', 'current',
                  logging.WARNING)
    while True:
        timer = Timer(seconds, announce)
        timer.daemon = True
        timer.start()
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            timer.cancel()
        yield batch
        number += 1


def protect_workers(loader: DataLoader) -> DataLoader:
    """Let data workers ignore SIGTERM, which schedulers send to all processes of a training.

    They end with this process: it kills them where multiprocessing would send them a SIGTERM, and wait. On Linux, the
    system kills them with a killed parent; they could wait in a full pipe forever.

    Args:
        loader: Changed in place, before it is iterated over.

    Returns:
        The loader.
    """
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
    Finalize(None, _kill_workers, exitpriority=0)
    return loader


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if init:
        init(worker)


def _kill_workers() -> None:
    workers = [process for process in active_children() if process.daemon]
    if workers and sys.platform != 'win32':
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report killed workers
        for process in workers:
            process.kill()


def place_samples(loader: DataLoader, seed: int) -> DataLoader:
    """Make each sample of a loader depend on its place alone.

    A loader without a sampler, as of an iterable data set, is left unchanged.

    Args:
        loader: Changed in place, before it is iterated over.
        seed: The seed of the training.

    Returns:
        The loader.
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    # torch refuses to set these, as there could be workers already. There are none.
    vars(loader).update(batch_size=loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None),
                        batch_sampler=_PlacedBatches(loader.batch_sampler, seed))
    loader.dataset.__getitems__ = partial(_load, loader.dataset)  # torch calls it with a whole batch
    return loader


class _Repeatable:
    """Seeds each iteration anew, and resumes inside of an epoch."""

    _is_checked = False

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        if isinstance(self.dataloader.batch_sampler, _PlacedBatches):
            self.dataloader.batch_sampler.start_at(0, 0)
        for name, value in (('max_epochs', self._max_epochs), ('max_iters', self._max_iters),
                            ('val_interval', self.val_interval)):
            if not value >= 1:
                raise ConfigError(f'train_cfg.{name} is {value}; expected at least 1')

    def run_iter(self, *arguments: Any) -> None:
        """Run one iteration on random numbers of its own."""
        seed_all(self.runner.seed, ITERATION, self._iter, get_rank())
        if self._is_checked:
            super().run_iter(*arguments)
            return
        with layer_errors(self.runner.model):
            super().run_iter(*arguments)
        self._is_checked = True
        self.runner.report_unread('train')

    def _batches(self, epoch: int, done: int) -> Iterator[Any]:
        """The batches of an epoch without the first ``done``."""
        if isinstance(self.dataloader.batch_sampler, _PlacedBatches):
            self.dataloader.batch_sampler.start_at(epoch, done)
            done = 0
        yield from islice(announce_waiting(self.dataloader), done, None)


class EpochBasedTrainLoop(_Repeatable, mmengine.runner.EpochBasedTrainLoop):
    """mmengine's loop over epochs, which can also resume inside of an epoch."""

    def run_epoch(self) -> None:
        """Run the rest of an epoch."""
        length = len(self.dataloader)
        done = self._iter - self._epoch * length
        if not 0 <= done <= length:  # batches or data set have changed since
            done = 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, batch in enumerate(self._batches(self._epoch, done), done):
            self.run_iter(number, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


class IterBasedTrainLoop(_Repeatable, mmengine.runner.IterBasedTrainLoop):
    """mmengine's loop over iterations, which resumes at the next batch without loading those before it."""

    def run(self) -> nn.Module:
        """Run the rest of the training."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        batches = self._endless_batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self._is_time_to_validate():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _is_time_to_validate(self) -> bool:
        return (self.runner.val_loop is not None and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters))

    def _endless_batches(self) -> Iterator[Any]:
        self.dataloader_iterator = None  # mmengine's, which starts at the first batch
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', None)
        has_epochs = hasattr(sampler, 'epoch')  # other samplers never end
        epoch, done = divmod(self._iter, len(self.dataloader)) if has_epochs else (0, self._iter)
        while True:
            if has_epochs:
                sampler.set_epoch(epoch)
            yield from self._batches(epoch, done)
            epoch, done = epoch + 1, 0


class _ByShape:
    """Evaluates the images of a batch by shape: padding would change the result, as it enters averages."""

    def run_iter(self, index: int, batch: Any) -> None:
        """Evaluate the images of each shape."""
        for part in parts_of_one_shape(batch):
            super().run_iter(index, part)


class ValLoop(_ByShape, mmengine.runner.ValLoop):
    """mmengine's loop over the images of a validation."""


class TestLoop(_ByShape, mmengine.runner.TestLoop):
    """mmengine's loop over the images of a test."""

    __test__ = False  # for pytest


def parts_of_one_shape(batch: Any) -> list[Any]:
    """Split a batch, a dict of lists with the images under ``inputs``, by the shapes of its images."""
    images = batch.get('inputs') if isinstance(batch, Mapping) else None
    shapes = [getattr(image, 'shape', None) for image in images] if isinstance(images, list) else []
    if len(set(shapes)) < 2:
        return [batch]
    return [{key: [values[i] for i, other in enumerate(shapes) if other == shape] for key, values in batch.items()}
            for shape in dict.fromkeys(shapes)]


def our_loop(loop: Any, default: str = '') -> Any:
    """The settings of a loop, where our loop replaces mmengine's of the same name.

    Args:
        loop: Settings, or a loop, which stays.
        default: Name of the loop without ``type`` and ``by_epoch``.
    """
    if not isinstance(loop, Mapping):
        return loop
    by_epoch = {True: 'EpochBasedTrainLoop', False: 'IterBasedTrainLoop'}.get(loop.get('by_epoch'), default)
    for ours in (EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop, TestLoop):
        if loop.get('type', by_epoch) in (ours.__name__, getattr(mmengine.runner, ours.__name__)):
            return {**{key: value for key, value in loop.items() if key != 'by_epoch'}, 'type': ours}
    return loop
