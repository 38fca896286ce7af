"""Two processes train as one does on the same samples, up to rounding, and resume to the same bits."""
import multiprocessing
import os
import random
import socket
import time

import pytest
import torch
from mmengine.config import Config, ConfigDict
from resume_runs import different, leave_checkpoint, make_config, states_of, train

from repvit_mm.checkpoints import read_checkpoint

#: What averages over the samples of one process only is left out: batch statistics, and losses by a local count.
DENSE = dict(
    type='FCOS', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    test_cfg=dict(nms_pre=99, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9),
    bbox_head=dict(type='FCOSHead', num_classes=8, in_channels=16, feat_channels=32, stacked_convs=1, norm_cfg=None,
                   strides=[4, 8, 16, 32, 64]))

KILLS = 8


def comparable(toolbox, folder):
    cfg = make_config(toolbox, folder)
    model = cfg.model
    model.backbone.update(drop_path_rate=0., norm_eval=True)
    if toolbox == 'mmdet':
        cfg.model = ConfigDict(**DENSE, backbone=model.backbone, neck=model.neck)
        # A batch is padded to its largest image, which may be in the other process.
        cfg.train_dataloader.dataset.pipeline[2] = dict(type='Resize', scale=(64, 64), keep_ratio=True)
        cfg.train_dataloader.batch_sampler = None
        cfg.val_evaluator.metric = 'bbox'
    elif toolbox == 'mmseg':
        cfg.model.decode_head.update(norm_cfg=None, dropout_ratio=0.)
    else:
        del cfg.model['train_cfg'], cfg.model.head.loss['use_soft']  # each process mixes its own images
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    cfg.param_scheduler = None
    cfg.train_dataloader.batch_size = 2
    return cfg


def one_of_two(rank, port, cfg, folder, resume, options):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
                      MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES='')
    log = os.open(f'{folder}.{rank}.log', os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    train(cfg, folder, resume, seed=None if resume else 3, launcher='pytorch',
          **{'train_dataloader.batch_size': 1, **options})


def start_two(cfg, folder, resume=False, **options):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('spawn')  # torch has no backward pass in a fork of a process that had one
    processes = [context.Process(target=one_of_two, args=(rank, port, cfg, folder, resume, options))
                 for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def end(processes):
    """Wait for both; gives their exit codes, None for one that still runs after five minutes."""
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def train_in_two(*arguments, **options):
    assert end(start_two(*arguments, **options)) == [0, 0]


def weights(path):
    return {name: tensor for name, tensor in read_checkpoint(path)['state_dict'].items() if tensor.is_floating_point()}


@pytest.mark.parametrize('toolbox', ['mmseg', *(pytest.param(name, marks=pytest.mark.trust)
                                               for name in ('mmdet', 'mmpretrain'))])
def test_two_processes_train_as_one(toolbox, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')
    cfg = comparable(toolbox, tmp_path / 'data')
    train(cfg, tmp_path / 'one', **{'default_hooks.checkpoint.max_keep_ckpts': -1})
    train_in_two(cfg, tmp_path / 'two')
    last = max((tmp_path / 'one').glob('iter_*.pth'), key=lambda path: int(path.stem[5:])).name
    before, one, two = (weights(tmp_path / path) for path in ('one/iter_2.pth', f'one/{last}', f'two/{last}'))
    learned = max((one[name] - before[name]).abs().max() for name in one)
    difference = max((one[name] - two[name]).abs().max() for name in one)
    print(f'{toolbox}: after {last} one and two processes differ by {difference:.1e}, of {learned:.1e} learned')
    assert learned > 1e-3 and difference < 1e-4 * learned
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.trust
@pytest.mark.parametrize('toolbox', ['mmseg', 'mmdet'])
def test_two_processes_resume_to_the_same_bits(toolbox, tmp_path):
    cfg = make_config(toolbox, tmp_path / 'data')
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 4  # of two iterations
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train_in_two(cfg, whole)
    leave_checkpoint(whole / 'iter_4.pth', resumed)
    train_in_two(cfg, resumed, True)
    assert not different(states_of(whole / 'iter_8.pth'), states_of(resumed / 'iter_8.pth'))


@pytest.mark.trust
def test_two_processes_end_equal_after_one_is_killed_repeatedly(tmp_path):
    """The one that is left ends by itself."""
    chance = random.Random(0)
    cfg = make_config('mmseg', tmp_path / 'data')
    cfg.optim_wrapper.accumulative_counts = 2
    length = {'train_cfg.max_iters': 60}
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    train_in_two(cfg, whole, **length)
    for _ in range(KILLS):
        before = set(killed.glob('iter_*.pth'))
        processes = start_two(cfg, killed, bool(before), **length)
        while not set(killed.glob('iter_*.pth')) - before:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        rank = chance.randrange(2)
        assert processes[rank].is_alive(), 'it ended too early'
        processes[rank].kill()
        assert end(processes)[1 - rank] not in (None, 0)
    train_in_two(cfg, killed, True, **length)
    ends = [states_of(folder / 'iter_60.pth') for folder in (whole, killed)]
    assert not different(*ends)
    print(f'two processes: {KILLS} kills, {len(ends[0])} tensors equal to the bit')
