import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from repvit_mm.errors import ConfigError
from repvit_mm.training import PublishedCosineLR

EPOCHS = (0, 1, 2, 5, 6, 50, 100, 150, 200, 250)
# What the published logs show as the learning rate of these epochs and the last, a row for each schedule.
LOGGED = {
    ('m0_9_distill_300e', ): (
        1.0000000000000165e-06, 1.0000000000000165e-06, 0.0006008000000000089, 0.00240020000000003,
        0.0029979511544580427, 0.0028074646476246414, 0.002266016916546765, 0.0015206553172537663,
        0.0007710988883453671, 0.00021819066962910723, 1.0327878205106021e-05),
    ('m0_9_distill_450e', 'm1_0_distill_450e', 'm1_1_distill_450e', 'm1_5_distill_450e'): (
        1.000000000000014e-06, 1.000000000000014e-06, 0.0008007999999999933, 0.0032001999999999873,
        0.003998784699903044, 0.003884404618310635, 0.0035421739193377214, 0.0030145373594217015,
        0.002365135694774904, 0.00167229635030139, 1.0194464601437938e-05),
    ('m1_0_distill_300e', 'm1_1_distill_300e', 'm1_5_distill_300e'): (
        1.000000000000014e-06, 1.000000000000014e-06, 0.0008007999999999933, 0.0032001999999999873,
        0.003997265921835383, 0.0037430715531847655, 0.003020537624421951, 0.002025891209311914,
        0.001025647011537802, 0.00028781965612712917, 1.0437536467683126e-05),
    ('m2_3_distill_300e', ): (
        9.999999999999953e-07, 9.999999999999953e-07, 0.000400799999999992, 0.0016001999999999824,
        0.0019986363870807653, 0.0018718577420645938, 0.0015114962086715817, 0.0010154194251956726,
        0.0005165507651529303, 0.00014856168313107316, 1.0218219942528797e-05),
    ('m2_3_distill_450e', ): (
        9.999999999999953e-07, 9.999999999999953e-07, 0.000400799999999992, 0.0016001999999999824,
        0.0019993938728840033, 0.0019423471655233763, 0.0017716606765619024, 0.001508503595300589,
        0.0011846165495243265, 0.0008390650970174828, 1.009698861074248e-05),
}


def rates_of(scheduler, optimizer, epochs):
    for _ in range(epochs):
        yield optimizer.param_groups[0]['lr']
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('run, logged', [(run, rates) for runs, rates in LOGGED.items() for run in runs])
def test_each_epoch_has_the_published_rate(run, logged):
    cfg = Config.fromfile(f'configs/classification/repvit_{run}.py')
    epochs = cfg.train_cfg.max_epochs
    assert f'{epochs}e' == run.rpartition('_')[2]
    batch = cfg.auto_scale_lr.base_batch_size
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * batch / 512) and cfg.auto_scale_lr.enable
    assert cfg.train_dataloader.batch_size * 8 == batch
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr)
    scheduler = PARAM_SCHEDULERS.build(cfg.param_scheduler, default_args=dict(optimizer=optimizer))
    rates = list(rates_of(scheduler, optimizer, epochs))
    assert [rates[epoch] for epoch in (*EPOCHS, epochs - 1)] == pytest.approx(logged, rel=1e-6)


def test_a_resumed_schedule_goes_on():
    def new():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.)
        return PublishedCosineLR(optimizer, 20), optimizer
    rates, stopped, resumed = list(rates_of(*new(), 20)), new(), new()
    list(rates_of(*stopped, 7))
    for one, other in zip(resumed, stopped, strict=True):
        one.load_state_dict(other.state_dict())
    assert list(rates_of(*resumed, 13)) == pytest.approx(rates[7:])


def test_every_group_has_its_own_peak():
    optimizer = torch.optim.SGD([dict(params=[torch.zeros(1)], lr=1.), dict(params=[torch.zeros(1)], lr=2.)])
    scheduler = PublishedCosineLR(optimizer, 10, warmup_epochs=2, warmup_lr=0., min_lr=0.)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([0.5, 1.])


def test_a_training_shorter_than_its_warm_up_is_refused():
    with pytest.raises(ConfigError, match='more epochs'):
        PublishedCosineLR(torch.optim.SGD([torch.zeros(1)], lr=1.), epochs=5)
