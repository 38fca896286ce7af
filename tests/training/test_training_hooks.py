from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from repvit_mm.errors import ConfigError
from repvit_mm.training import ModelEmaHook


@MODELS.register_module()
class OneWeight(BaseModel):
    """Learns a number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.BatchNorm1d(1)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        self.layer(torch.randn(4, 1))
        if mode == 'loss':
            return dict(loss=-self.weight.sum())
        return [dict(weight=self.weight.item())]


@DATASETS.register_module()
class Four(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(1))


@METRICS.register_module()
class SeenWeight(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(weight=results[-1]['weight'])


def runner_of(work_dir, epochs=2, hooks=(), **settings):
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='Four'),
                  sampler=dict(type='DefaultSampler', shuffle=False))
    evaluator = dict(type='SeenWeight')
    return Runner.from_cfg(Config(dict(
        model=dict(type='OneWeight'), work_dir=str(work_dir), train_dataloader=loader,
        val_dataloader=loader, test_dataloader=loader, val_evaluator=evaluator, test_evaluator=evaluator,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)), val_cfg={}, test_cfg={},
        train_cfg=dict(by_epoch=True, max_epochs=epochs), custom_hooks=list(hooks), default_scope='mmengine',
        experiment_name=f'{work_dir.name}{epochs}{len(settings)}', **settings)))


EMA = dict(type='ModelEmaHook', decay=0.5)


def average(steps):
    value = 0.
    for step in range(1, steps + 1):
        value = 0.5 * value + 0.5 * step
    return value


def test_the_average_is_saved_and_evaluated_beside_the_raw_weights_and_resumed(tmp_path):
    runner = runner_of(tmp_path, hooks=[EMA])
    runner.train()
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert saved['state_dict']['weight'].item() == 4  # two steps an epoch, the weight grows by one in each
    assert saved['ema_state_dict']['weight'].item() == pytest.approx(average(4))
    scalars = runner.message_hub.log_scalars
    assert scalars['val/weight'].current() == 4
    assert scalars['val/ema/weight'].current() == pytest.approx(average(4))
    assert runner.model.weight.item() == 4, 'evaluation puts the raw weights back'

    path = str(tmp_path / 'epoch_2.pth')
    metrics = runner_of(tmp_path, hooks=[EMA], load_from=path).test()
    assert metrics == {'weight': 4, 'ema/weight': pytest.approx(average(4))}
    for folder, epoch, resume, raw, expected in (
            ('resumed', 3, True, 6, average(6)), ('started', 1, False, 6, 0.25 * 4 + 0.25 * 5 + 0.5 * 6)):
        runner_of(tmp_path / folder, epochs=epoch, hooks=[EMA], load_from=path, resume=resume).train()
        saved = torch.load(tmp_path / folder / f'epoch_{epoch}.pth', weights_only=False)
        assert saved['state_dict']['weight'].item() == raw
        assert saved['ema_state_dict']['weight'].item() == pytest.approx(expected)


def test_statistics_are_averaged_and_counts_are_copied():
    model = OneWeight()
    runner = SimpleNamespace(model=model, _resume=False)
    hook = ModelEmaHook(decay=0.75)
    hook.before_train(runner)
    model.layer.running_mean.fill_(8.)
    model.layer.num_batches_tracked.fill_(5)
    hook.after_train_iter(runner, 0)
    assert hook.average.layer.running_mean.item() == 2.
    assert hook.average.layer.num_batches_tracked.item() == 5
    assert not any(p.requires_grad for p in hook.average.parameters()) and not hook.average.training


@pytest.mark.parametrize('decay', [0., 1., 1.5])
def test_the_decay_is_checked(decay):
    with pytest.raises(ConfigError, match='between 0 and 1'):
        ModelEmaHook(decay)
