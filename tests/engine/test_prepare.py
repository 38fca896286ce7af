"""Configs made ready to run, and checkpoints to resume; no toolbox needed."""
import argparse
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, OPTIM_WRAPPERS
from torch import nn
from torch.utils.data import Dataset

import repvit_mm.training
from repvit_mm.cli.arguments import Parser, add_common_arguments
from repvit_mm.engine.prepare import (
    enable_amp,
    enable_auto_scale_lr,
    fit_to_machine,
    move_data_root,
    prepare,
    remove_pretrained,
    set_epochs,
)
from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes import datasets_of


def options(*values):
    parser = argparse.ArgumentParser()
    parser.set_defaults(config='configs/name.py', amp=False, auto_scale_lr=False, no_pretrained=False, epochs=None,
                        resume=None)
    add_common_arguments(parser)
    return parser.parse_args(values)


@pytest.mark.parametrize(('arguments', 'message'), [
    (('--cfg-options', 'a=1', 'b'), "expected KEY=VALUE, got 'b'"),
    (('--cfg-options', 'a=1', 'b=[(1,2]'), 'lists and tuples'),
    (('--cfg-options', 'a=1', 'b=[{"s":(4,4)}]'), 'lists and tuples'),
    *((('--seed', seed), f'argument --seed: expected a whole number from 0 to 4294967295, got {seed}')
      for seed in ('-1', '4294967296', 'x'))])
def test_an_option_that_cannot_be_read_is_a_usage_error(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        options(*arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_cfg_options_are_numbers_texts_lists_and_tuples():
    given = options('--cfg-options', 'a=1', 'b.c=[8,11]', 'd=(64,64)', 'e=text=x', 'f=True')
    assert given.cfg_options == {'a': 1, 'b.c': [8, 11], 'd': (64, 64), 'e': 'text=x', 'f': True}


@pytest.mark.parametrize(('given', 'in_config', 'expected'), [
    (['--work-dir', 'here'], 'there', 'here'), ([], 'there', 'there'), ([], None, 'work_dirs/name')])
def test_work_dir_and_seed(given, in_config, expected):
    cfg, args = Config(dict(work_dir=in_config, randomness=dict(deterministic=True))), options(*given, '--seed', '3')
    prepare(cfg, args, 'train')
    assert cfg.work_dir == expected and cfg.randomness == dict(deterministic=True, seed=3)


def test_schedules_follow_the_length_of_the_training():
    cfg = Config(dict(train_cfg=dict(max_epochs=300), param_scheduler=[
        dict(type='LinearLR', by_epoch=False, begin=0, end=1000), dict(type='LinearLR', by_epoch=True, end=5),
        dict(type='CosineAnnealingLR', begin=5, end=300, T_max=295), dict(type='MultiStepLR', milestones=[200, 275]),
        dict(type='PublishedCosineLR', epochs=300), dict(type='StepLR', step_size=50)],
        custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=280)]))
    set_epochs(cfg, 30)
    warmup, linear, cosine, steps, published, step = cfg.param_scheduler
    assert published.epochs == 30 and step.step_size == 5
    assert cfg.train_cfg.max_epochs == 30 and warmup.end == 100 and linear.end == 2
    assert (cosine.begin, cosine.end, cosine.T_max) == (1, 30, 29) and steps.milestones == [20, 28]
    assert cfg.custom_hooks[0].switch_epoch == 28
    set_epochs(cfg, 1)
    assert cosine not in cfg.param_scheduler and len(cfg.param_scheduler) == 5
    with pytest.raises(ConfigError, match='neither train_cfg.max_epochs nor train_cfg.max_iters'):
        set_epochs(Config({}), 3)


@DATASETS.register_module()
class Numbers(Dataset):
    def __init__(self, path=os.devnull):
        open(path).close()

    def __len__(self):
        return 100


@pytest.mark.parametrize(('launcher', 'iterations'), [('none', 75), ('pytorch', 36)])
def test_epochs_of_a_training_that_counts_iterations(monkeypatch, launcher, iterations):
    monkeypatch.setenv('WORLD_SIZE', '2')
    cfg = Config(dict(launcher=launcher, train_cfg=dict(max_iters=300), train_dataloader=dict(
        batch_size=4, dataset=dict(type='Numbers')), param_scheduler=[
            dict(type='LinearLR', by_epoch=False, end=100), dict(type='PolyLR', by_epoch=False, begin=0, end=300)]))
    set_epochs(cfg, 3)
    warm_up, poly = cfg.param_scheduler
    assert (cfg.train_cfg.max_iters, warm_up.end, poly.end) == (iterations, iterations // 3, iterations)


def test_epochs_of_a_data_set_that_is_missing(tmp_path):
    cfg = Config(dict(launcher='none', train_cfg=dict(max_iters=300), train_dataloader=dict(dataset=dict(
        type='Numbers', path=str(tmp_path / 'no.json')))))
    with pytest.raises(DatasetError, match='cannot read the data set of .*no.json: No such file'):
        set_epochs(cfg, 3)


@pytest.mark.parametrize(('name', 'seen'), [('cpu', ''), ('cuda:1', '1'), ('gpu', None)])
def test_device_is_all_that_torch_and_mmengine_see(monkeypatch, name, seen):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    imported = []  # mmengine notes the device when it is imported
    monkeypatch.setattr(repvit_mm, 'register', lambda: imported.append(os.environ['CUDA_VISIBLE_DEVICES']))
    parser = Parser('test')
    add_common_arguments(parser)
    if seen is None:
        with pytest.raises(SystemExit):
            parser.parse_args(['--device', name])
    else:
        assert parser.parse_args(['--device', name]).device == name and imported == [seen]


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_launcher_that_did_not_start_the_process(launcher, monkeypatch):
    for variable in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(variable, raising=False)
    parser = Parser('')
    add_common_arguments(parser)
    with pytest.raises(ConfigError, match=rf'--launcher {launcher} is for processes that it .*, but \w+ is not set'):
        parser.parse_args(['--launcher', launcher])


@pytest.mark.parametrize(('terminal', 'rank', 'lines'), [(True, '0', 1), (True, '1', 0), (False, '0', 0)])
def test_a_terminal_shows_what_starts(monkeypatch, capsys, terminal, rank, lines):
    monkeypatch.setattr('sys.stderr.isatty', lambda: terminal)
    monkeypatch.setenv('LOCAL_RANK', rank)
    Parser('test').parse_args([])
    assert capsys.readouterr().err == 'importing torch and mmengine ...\n' * lines


def test_loaders_fit_the_machine():
    loaders = dict(train_dataloader=dict(num_workers=0, persistent_workers=True, pin_memory=True),
                   val_dataloader=dict(num_workers=2, persistent_workers=True))
    cfg = Config(loaders)
    fit_to_machine(cfg)
    assert cfg.train_dataloader.persistent_workers is False  # torch refuses to keep no workers
    assert cfg.val_dataloader.persistent_workers is True


PRETRAINED = dict(type='Pretrained', checkpoint='repvit://m1_1_distill_300e')


def test_no_pretrained_removes_weights_wherever_they_are_named():
    kaiming = dict(type='Kaiming', layer='Conv2d')
    cfg = Config(dict(load_from='weights.pth', model=dict(
        type='D', init_cfg=PRETRAINED, pretrained='torchvision://resnet50',
        backbone=dict(type='B', init_cfg=PRETRAINED, depth=3), neck=dict(type='N', init_cfg=kaiming),
        heads=[dict(type='H', init_cfg=[kaiming, PRETRAINED]), dict(type='H', init_cfg=None)])))
    remove_pretrained(cfg)
    assert cfg.load_from is None
    assert cfg.model == dict(
        type='D', pretrained=None, backbone=dict(type='B', depth=3), neck=dict(type='N', init_cfg=kaiming),
        heads=[dict(type='H', init_cfg=[kaiming]), dict(type='H', init_cfg=None)])


@pytest.mark.parametrize(('kind', 'on_gpu', 'on_cpu'), [
    ('OptimWrapper', 'AmpOptimWrapper', 'Bfloat16OptimWrapper'),
    ('AmpOptimWrapper', 'AmpOptimWrapper', 'Bfloat16OptimWrapper')])
def test_mixed_precision_of_a_gpu_and_of_a_cpu(kind, on_gpu, on_cpu, monkeypatch):
    settings = dict(dtype='float16', loss_scale=512.)
    for device, expected in (('cuda', dict(settings, type=on_gpu)), ('cpu', dict(type=on_cpu))):
        monkeypatch.setattr('repvit_mm.engine.prepare.get_device', lambda device=device: device)
        cfg = Config(dict(optim_wrapper=dict(settings, type=kind)))
        enable_amp(cfg)
        fit_to_machine(cfg)
        assert cfg.optim_wrapper.to_dict() == expected


def test_bfloat16_is_of_the_losses_and_not_of_the_weights():
    model = nn.Linear(4, 4)
    wrapper = OPTIM_WRAPPERS.build(dict(type='Bfloat16OptimWrapper', optimizer=torch.optim.SGD(model.parameters(), 1.)))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 4))
    wrapper.update_params(output.float().sum())
    assert output.dtype == torch.bfloat16 and model(torch.ones(1, 4)).dtype == torch.float32
    assert torch.equal(model.weight, before - 1)


@pytest.mark.parametrize('settings', [{}, dict(auto_scale_lr=dict(enable=False))])
def test_auto_scale_lr_needs_the_batch_of_the_learning_rate(settings):
    with pytest.raises(ConfigError, match='base_batch_size'):
        enable_auto_scale_lr(Config(settings))
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable


def test_amp_of_another_optimiser_wrapper():
    with pytest.raises(ConfigError, match='ApexOptimWrapper'):
        enable_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))


COCO = dict(type='CocoDataset', data_root='data/coco/', ann_file='annotations/a.json', data_prefix=dict(img='train/'))


def config(train, **others):
    loader = dict(batch_size=2, dataset=train)
    return Config(dict(train_dataloader=loader, val_dataloader=dict(dataset=COCO), **others))


@pytest.mark.parametrize('wrap', [
    lambda one: one,
    lambda one: dict(type='RepeatDataset', times=3, dataset=one),
    lambda one: dict(type='ConcatDataset', datasets=[one, dict(one, data_root='data/coco')]),
    lambda one: dict(type='MultiImageMixDataset', dataset=dict(type='ClassBalancedDataset', dataset=one)),
], ids=['plain', 'repeated', 'concatenated', 'nested'])
def test_data_root_moves_every_data_set(wrap):
    cfg = config(wrap(COCO))
    move_data_root(cfg, '/elsewhere')
    roots = {dataset['data_root'].rstrip('/') for _, dataset in datasets_of(cfg)}
    assert roots == {'/elsewhere'}
    assert 'data/coco' not in cfg.pretty_text
    assert cfg.train_dataloader.batch_size == 2


def test_data_root_moves_evaluators_and_other_paths():
    proposals = dict(COCO, proposal_file='data/coco/proposals.pkl', ann_file='/absolute/a.json')
    cfg = config(proposals, data_root='data/coco/', val_evaluator=dict(type='CocoMetric', ann_file='data/coco/a.json'),
                 test_evaluator=[dict(type='CocoMetric', ann_file='data/coco/b.json', metric=['bbox']),
                                 dict(type='Other', ann_file='data/coco_other/b.json')])
    move_data_root(cfg, '/new/')
    assert cfg.val_evaluator.ann_file == '/new/a.json'
    assert cfg.test_evaluator[0] == dict(type='CocoMetric', ann_file='/new/b.json', metric=['bbox'])
    assert cfg.test_evaluator[1].ann_file == 'data/coco_other/b.json'  # another directory that begins alike
    assert cfg.train_dataloader.dataset.proposal_file == '/new/proposals.pkl'
    assert cfg.train_dataloader.dataset.ann_file == '/absolute/a.json'
    assert cfg.data_root.rstrip('/') == '/new'


def test_data_root_of_several_data_sets_is_not_guessed():
    with pytest.raises(ConfigError, match='data/coco, data/lvis'):
        move_data_root(config(dict(COCO, data_root='data/lvis/')), '/new')


@pytest.mark.parametrize('dataset', [dict(type='Custom', ann_file='x/a.json'), dict(COCO, data_root='')])
def test_data_root_needs_one_to_move(dataset):
    with pytest.raises(ConfigError, match='of train_dataloader has no data_root'):
        move_data_root(config(dataset), '/new')
