"""Settings that nothing reads."""
import copy
import io
import pickle

import pytest
import torch
from mmengine.config import Config, ConfigDict

from repvit_mm.engine.hooks import SummaryHook
from repvit_mm.engine.unread import observed, unread


def build(mode='whole', *, lr=1., **kwargs):
    """A class of a toolbox that swallows what it does not know."""
    return mode, lr


@pytest.mark.parametrize('read', [
    lambda model: model['depth'], lambda model: model.depth, lambda model: model.get('depth'),
    lambda model: 'depth' in model, lambda model: model.pop('depth'), lambda model: copy.deepcopy(model).depth,
    lambda model: dict(model)['depth'], lambda model: (lambda depth, **_: depth)(**model),
    lambda model: {**model, 'other': 1}['depth'], lambda model: Config(dict(model=model)).model.depth])
def test_reads_of_any_copy_are_recorded(read):
    cfg = observed(ConfigDict(model=dict(depth=3, width=4)))
    read(cfg['model'])
    assert list(unread(cfg, 'train')) == ['model.width']


def test_arguments_that_are_swallowed_are_not_read():
    cfg = observed(ConfigDict(val_evaluator=dict(mode='slide', lr=2., iou_metric=['mIoU']), env_cfg=dict(x=1)))
    assert build(**cfg['val_evaluator']) == ('slide', 2.)
    assert list(unread(cfg, 'train')) == ['val_evaluator.iou_metric', 'env_cfg.x']


def test_a_section_is_read_if_any_of_its_keys_is():
    cfg = observed(ConfigDict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(
        norm=dict(decay_mult=0.), backbone=dict(lr_mlt=0.1)))), custom_hooks=[dict(type='A', every=1)]))
    for _, settings in cfg.optim_wrapper.paramwise_cfg.custom_keys.items():
        settings.get('lr_mult'), settings.get('decay_mult')
    assert cfg.custom_hooks[0].type == 'A'
    assert list(unread(cfg, 'train')) == ['optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mlt',
                                          'custom_hooks.0.every']


def test_the_nearest_name_that_was_read_is_proposed():
    cfg = observed(ConfigDict(model=dict(test_cfg=dict(mode='whole', mod='slide'))))
    assert cfg.model.test_cfg.mode == 'whole'
    assert unread(cfg, 'train') == {}, 'training reads no settings of the test'
    assert unread(cfg, 'val') == {'model.test_cfg.mod': 'model.test_cfg.mod (did you mean mode?)'}


def test_settings_of_a_wrapper_that_one_process_lacks_are_judged_by_their_names():
    cfg = observed(ConfigDict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', tpe='x')))
    assert list(unread(cfg, 'train')) == ['model_wrapper_cfg.tpe']


@pytest.mark.parametrize('key', [
    'env_cfg.dist_cfg.backend', 'model.neck.init_cfg.checkpoint', 'model.test_cfg.nms.iou',
    'model.test_cfg.mask_thr_binary'])
def test_conditionally_read_settings_are_not_reported(key):
    cfg = Config({})
    cfg.merge_from_dict({key: 1})
    cfg = observed(cfg._cfg_dict)
    assert not unread(cfg, 'train') and not unread(cfg, 'val')


def test_keys_are_ordinary_in_files():
    cfg = observed(ConfigDict(a=dict(b=[dict(c=1)])))
    assert pickle.loads(pickle.dumps(dict(cfg.a))) == {'b': [{'c': 1}]}
    keys = [*observed(cfg, str), *observed(cfg, str).a]
    assert {type(key) for key in keys} == {str}


def test_groups_of_an_optimiser_are_saved_under_plain_keys():
    settings = observed({'lr_mult': 0.1})
    group = {'lr': 1., **settings}
    checkpoint = dict(meta={}, message_hub={}, state_dict={}, optimizer=dict(state={}, param_groups=[group]))
    SummaryHook().before_save_checkpoint(None, checkpoint)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)['optimizer']['param_groups'] == [{'lr': 1., 'lr_mult': 0.1}]
