"""Bounds of the settings in a config."""
import pytest

from repvit_mm.engine.settings import check_settings
from repvit_mm.errors import ConfigError


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=0)), 'train_cfg.max_iters=0 must be a whole number, at'),
    (dict(train_cfg=dict(max_epochs=-3)), 'train_cfg.max_epochs=-3 must'),
    (dict(train_cfg=dict(max_epochs=1.5)), 'train_cfg.max_epochs=1.5 must'),
    (dict(train_cfg=dict(max_epochs='ten')), 'train_cfg.max_epochs=ten must'),
    (dict(train_cfg=dict(max_iters=float('inf'))), 'train_cfg.max_iters=inf must'),
    (dict(train_cfg=dict(max_epochs=3, val_interval=0)), 'train_cfg.val_interval=0 must'),
    (dict(train_cfg=dict(max_epochs=3, val_interval=float('nan'))), 'train_cfg.val_interval=nan must'),
    (dict(train_dataloader=dict(batch_size=8.)), 'train_dataloader.batch_size=8.0 must be a whole number from 1'),
    (dict(default_hooks=dict(logger=dict(interval=0))), 'default_hooks.logger.interval=0 must'),
    (dict(custom_hooks=[dict(interval=2.5)]), 'custom_hooks.0.interval=2.5 must'),
    (dict(model=dict(head=[dict(loss=dict(weight=float('nan')))])), 'model.head.0.loss.weight=nan must be a number'),
    (dict(model=5), 'model=5 must be a dict'),
])
def test_a_setting_out_of_bounds(settings, message):
    with pytest.raises(ConfigError) as error:
        check_settings(settings)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize('settings', [
    dict(train_cfg=None), dict(train_cfg=dict(by_epoch=False, max_iters=1e5, val_interval=float('inf'))),
    dict(default_hooks=dict(checkpoint=dict(interval=-1), visualization=None), val_dataloader=None),
    dict(model=dict(decode_head=[dict(num_classes=3)], test_cfg=dict(score_thr=0.))),
])
def test_settings_within_bounds(settings):
    check_settings(settings)
