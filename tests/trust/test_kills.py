"""Trainings that are killed again and again, at any moment, and end as if nothing had happened."""
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from resume_runs import different, make_config, states_of, train

KILLS = {'mmdet': 17, 'mmseg': 17, 'mmpretrain': 16}
ITERATIONS = 100


@HOOKS.register_module()
class TellIteration(Hook):
    """Writes a byte into a pipe in each iteration."""

    def __init__(self, pipe):
        self.pipe = pipe

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        os.write(self.pipe, b'.')


def run(cfg, work_dir, pipe, resume, workers):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    length = dict(max_iters=ITERATIONS) if 'max_iters' in cfg.train_cfg else dict(max_epochs=ITERATIONS // 4)
    train(cfg, work_dir, resume, seed=None if resume else 3, train_cfg=length, custom_hooks=[
        *cfg.custom_hooks, dict(type='TellIteration', pipe=pipe)], **{'train_dataloader.num_workers': workers})


def start(*arguments):
    """Start a training in a process of its own, which has imported all; gives the process, and its iterations."""
    inside, outside = os.pipe()
    process = multiprocessing.get_context('fork').Process(target=run, args=(*arguments[:2], outside, *arguments[2:]))
    process.start()
    os.close(outside)
    return process, inside


def kill_after(process, iterations, at_iteration, seconds):
    """Kill a training that many seconds after the start of an iteration; gives whether it was still running."""
    for _ in range(at_iteration):
        if not os.read(iterations, 1):
            break
    else:
        time.sleep(seconds)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.close(iterations)
    return alive


@pytest.mark.trust
@pytest.mark.parametrize('toolbox', KILLS)
def test_a_repeatedly_killed_training_ends_as_an_uninterrupted_one(toolbox, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')  # takes longer than an iteration
    chance = random.Random(toolbox)
    cfg = make_config(toolbox, tmp_path / 'data')
    process, iterations = start(cfg, tmp_path / 'whole', False, 0)
    process.join()
    assert process.exitcode == 0
    kills = 0
    killed = tmp_path / 'killed'
    while True:
        process, iterations = start(cfg, killed, any(killed.glob('iter_*.pth')), chance.randrange(3))
        if kills == KILLS[toolbox]:
            process.join()
            assert process.exitcode == 0
            break
        assert kill_after(process, iterations, chance.randint(1, 4), chance.random() * 0.2), 'it ended too early'
        kills += 1
    ends = [states_of(Path(folder, f'iter_{ITERATIONS}.pth')) for folder in (tmp_path / 'whole', killed)]
    assert not different(*ends)
    print(f'{toolbox}: {kills} kills, {len(ends[0])} tensors equal to the bit')
