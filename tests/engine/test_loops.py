"""Which random numbers samples and iterations get."""
import os
import random
import signal
import subprocess
import sys
import time

import mmengine.runner
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset

from repvit_mm.engine import loops
from repvit_mm.engine.loops import (
    TestLoop,
    announce_waiting,
    our_loop,
    parts_of_one_shape,
    place_samples,
    protect_workers,
    seed_all,
)


class Noise(Dataset):
    """Each sample: its number, and a number of each generator."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def batches(monkeypatch, rank=0, world=1, workers=0, sampler=DefaultSampler, epoch=0, done=0, batch_size=4):
    for module in (loops, __import__('mmengine.dataset.sampler', fromlist=['x'])):
        for name, value in dict(get_rank=rank, get_world_size=world, get_dist_info=(rank, world)).items():
            monkeypatch.setattr(module, name, lambda value=value: value, raising=False)
    data = Noise()
    sampler = sampler(data, shuffle=True, seed=5)
    loader = place_samples(DataLoader(data, batch_size // world, sampler=sampler, num_workers=workers), seed=5)
    assert list(loader) == [], 'nobody has said where to start'
    if hasattr(sampler, 'epoch'):
        sampler.set_epoch(epoch)
    loader.batch_sampler.start_at(epoch, done)
    return [batch for batch, _ in zip(loader, range(6), strict=False)]


def test_neither_workers_nor_what_was_drawn_before_change_a_sample(monkeypatch):
    expected = batches(monkeypatch)
    seed_all(1)
    assert len(expected) == 2
    for found, batch in zip(batches(monkeypatch, workers=2), expected, strict=True):
        assert torch.equal(found, batch)
    assert len(torch.cat(expected)[:, 1:].unique()) == 24, 'each sample has numbers of its own'


def test_each_epoch_has_its_own_numbers(monkeypatch):
    first, second = (torch.cat(batches(monkeypatch, epoch=epoch)) for epoch in (0, 1))
    assert len(torch.cat([first, second])[:, 1:].unique()) == 48


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_processes_share_the_batch_of_one(monkeypatch, sampler):
    one = batches(monkeypatch, sampler=sampler)
    two = [batches(monkeypatch, sampler=sampler, rank=rank, world=2) for rank in (0, 1)]
    for batch, *parts in zip(one, *two, strict=True):
        assert torch.equal(batch, torch.stack(parts, 1).flatten(0, 1))


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_skipped_batches_are_those_at_the_start(monkeypatch, sampler):
    whole, rest = batches(monkeypatch, sampler=sampler), batches(monkeypatch, sampler=sampler, done=1)
    assert all(torch.equal(one, other) for one, other in zip(whole[1:], rest, strict=False))
    assert len(rest) == (1 if sampler is DefaultSampler else 6)


class Slow(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(0.6 * (index == 1))
        return os.getpid()


@pytest.mark.parametrize('workers', [0, 2])
def test_a_worker_that_gives_no_batch_is_named(monkeypatch, workers):
    said = []
    monkeypatch.setattr(loops, 'print_log', lambda text, *_: said.append(text))
    found = list(announce_waiting(DataLoader(Slow(), 1, num_workers=workers), seconds=0.2))
    assert len(found) == 4
    where = f'data worker 1 (process {found[1].item()})' if workers else 'reading a batch'
    assert any(text.startswith(f'no batch for 0.2 s: waiting for {where}') for text in said)


#: Starts a training's data worker, and prints its number.
WITH_A_WORKER = f"""
import multiprocessing, os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from torch.utils.data import DataLoader
from test_loops import Slow
from repvit_mm.engine.loops import protect_workers
def train():
    global batches
    batches = iter(protect_workers(DataLoader(Slow(), 1, num_workers=1, persistent_workers=True)))
    print(next(batches).item(), flush=True)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='needs PR_SET_PDEATHSIG')
@pytest.mark.parametrize('run', ['train()', 'train(); os.kill(os.getpid(), 9)', (
    'process = multiprocessing.get_context("fork").Process(target=train); process.start(); process.join()')])
def test_data_workers_end_with_their_parent(run):
    done = subprocess.run([sys.executable, '-c', WITH_A_WORKER + run], capture_output=True, text=True, timeout=120)
    assert done.stderr == ''
    deadline = time.monotonic() + 3  # torch's own watch takes 5 s, and forever if a pipe is full
    while os.path.exists(f'/proc/{int(done.stdout)}') and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f'/proc/{int(done.stdout)}')


def test_data_workers_outlive_a_sigterm_to_all_processes():
    batches = iter(protect_workers(DataLoader(torch.arange(8), 1, num_workers=1)))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGTERM)
    assert len(list(batches)) == 7


def test_images_of_several_shapes_are_evaluated_apart():
    images = [torch.zeros(3, *size) for size in ((2, 4), (4, 2), (2, 4))]
    batch = dict(inputs=images, data_samples=['a', 'b', 'c'])
    assert [part['data_samples'] for part in parts_of_one_shape(batch)] == [['a', 'c'], ['b']]
    for whole in (dict(inputs=images[::2], data_samples=['a', 'c']), dict(inputs=torch.zeros(2, 3, 4, 4)), [1, 2]):
        assert parts_of_one_shape(whole) == [whole]


@pytest.mark.parametrize(('loop', 'default', 'ours'), [
    (dict(by_epoch=True, max_epochs=3), '', 'EpochBasedTrainLoop'), (dict(type='IterBasedTrainLoop'), '', None),
    (dict(type=mmengine.runner.TestLoop, fp16=True), 'TestLoop', 'TestLoop'), ({}, 'ValLoop', 'ValLoop'),
    (dict(type='OtherLoop'), 'TestLoop', '')])
def test_loops_of_mmengine_become_ours(loop, default, ours):
    found = our_loop(loop, default)
    if ours == '':
        assert found is loop
        return
    assert found['type'].__module__ == loops.__name__ and found['type'].__name__ == (ours or loop['type'])
    assert {key: value for key, value in found.items() if key != 'type'} == {
        key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}
    assert our_loop(TestLoop) is TestLoop


def test_only_one_pass_leaves_out_what_is_done():
    data = Noise()
    loader = place_samples(DataLoader(data, 2, sampler=DefaultSampler(data, shuffle=False, seed=5)), seed=5)
    loader.batch_sampler.start_at(0, 3)
    assert [len(list(loader)) for _ in range(2)] == [1, len(data) // 2]
