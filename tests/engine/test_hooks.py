"""Runs whose loss or weights become infinite or NaN."""
import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.engine.runner import Runner
from repvit_mm.errors import UserError

NUMBERS = itertools.count()
#: By epochs of two iterations, or by iterations; saved every two.
LOOPS = [dict(by_epoch=True, max_epochs=4), dict(by_epoch=False, max_iters=8, val_interval=100)]


@MODELS.register_module()
class Diverging(BaseModel):
    """Learns a number, one more in each step, until ``loss`` or ``weights`` break in iteration ``at``."""

    def __init__(self, at, breaks):
        super().__init__()
        self.at, self.breaks, self.seen = at, breaks, 0
        self.weight = nn.Parameter(torch.zeros(1))
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x, mode='loss'):
        self.seen += 1
        broken = self.seen == self.at
        if broken and self.breaks == 'weights':
            self.fixed.data.fill_(float('-inf'))  # the loss does not show it
        nan = float('nan') if broken and self.breaks == 'loss' else 0.
        return dict(loss_cls=-self.weight.sum(), loss_mask=self.weight.sum() * nan, acc=torch.tensor(float('nan')))


@DATASETS.register_module()
class TwoZeros(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(x=torch.zeros(1))


def run(folder, at, breaks, train_cfg, hooks=(), **checkpoint):
    by_epoch = train_cfg['by_epoch']
    checkpoint = dict(type='CheckpointHook', interval=1 if by_epoch else 2, by_epoch=by_epoch, **checkpoint)
    Runner.from_cfg(Config(dict(
        model=dict(type='Diverging', at=at, breaks=breaks), work_dir=str(folder), train_cfg=train_cfg,
        train_dataloader=dict(dataset=dict(type='TwoZeros'), batch_size=1, num_workers=0,
                              sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)), default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=list(hooks), experiment_name=f'diverging{next(NUMBERS)}', log_level='ERROR'))).train()


@pytest.mark.parametrize('kept', [-1, 1])
@pytest.mark.parametrize(('at', 'breaks', 'said'), [
    (6, 'loss', r'after iteration 6 the loss \(loss_mask\) is nan'),  # where a checkpoint is due
    (6, 'weights', 'after iteration 6 1 of 2 tensors .*, first fixed, and are not saved'),
])
@pytest.mark.parametrize('train_cfg', LOOPS, ids=['epochs', 'iterations'])
def test_a_training_that_diverged_stops_and_keeps_the_last_good_checkpoint(tmp_path, train_cfg, at, breaks, said, kept):
    good = 'epoch_2.pth' if train_cfg['by_epoch'] else 'iter_4.pth'
    with pytest.raises(UserError, match=rf'^training diverged and stops: {said}; the last good checkpoint is .*{good}; '
                                        r'lower the learning rate .*clip the gradients') as error:
        run(tmp_path, at, breaks, train_cfg, max_keep_ckpts=kept)
    assert '\n' not in str(error.value)
    left = sorted(path.name for path in tmp_path.glob('*.pth*'))
    assert left == ([good] if kept == 1 else [good.replace(*'21' if train_cfg['by_epoch'] else '42'), good])
    assert read_checkpoint(tmp_path / good)['state_dict']['weight'].item() == 4


def test_without_a_checkpoint_the_error_says_so(tmp_path):
    with pytest.raises(UserError, match='no checkpoint had been saved'):
        run(tmp_path, 1, 'loss', LOOPS[0])


@pytest.mark.parametrize('train_cfg', LOOPS, ids=['epochs', 'iterations'])
def test_a_logged_value_that_is_not_a_loss_may_be_nan(tmp_path, train_cfg):
    run(tmp_path, None, '', train_cfg)
    assert (tmp_path / 'last_checkpoint').is_file()
