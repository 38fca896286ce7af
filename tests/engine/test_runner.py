"""The Runner on a model of two numbers; no toolbox needed."""
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from repvit_mm import RepViT, fuse
from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.engine import hooks
from repvit_mm.engine.resuming import latest_checkpoint
from repvit_mm.engine.runner import Runner, run
from repvit_mm.engine.unread import observed
from repvit_mm.errors import CheckpointError, ConfigError, DatasetError, run_cli
from repvit_mm.toolboxes import TOOLBOXES


@MODELS.register_module()
class ToyModel(BaseModel):
    def __init__(self, bias=True, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.linear = nn.Linear(1, 1, bias=bias)

    def forward(self, x, mode='tensor'):
        return [x] if mode == 'predict' else dict(loss=self.linear(x).square().mean())


@METRICS.register_module()
class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(data_batch)

    def compute_metrics(self, results):
        return dict(seen=len(results))


@DATASETS.register_module()
class ToyDataset(Dataset):
    def __init__(self, metainfo=None):
        if metainfo:
            self.metainfo = dict(metainfo)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(x=torch.ones(1) * index)


@pytest.fixture
def make_runner(tmp_path):
    def make(epochs=3, model=None, load_from=None, resume=False, log_level='ERROR', metainfo=None, **checkpoint):
        settings = dict(
            model=model or dict(type='ToyModel'), work_dir=str(tmp_path), load_from=load_from, resume=resume,
            train_dataloader=dict(dataset=dict(type='ToyDataset'), batch_size=1, num_workers=0,
                                  sampler=dict(type='DefaultSampler', shuffle=False),
                                  collate_fn=dict(type='default_collate')),
            train_cfg=dict(by_epoch=True, max_epochs=epochs), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, **checkpoint)),
            experiment_name=f'{tmp_path.name}{next(numbers)}', log_level=log_level)
        settings['train_dataloader']['dataset']['metainfo'] = metainfo
        return Runner.from_cfg(Config(observed(Config(settings)._cfg_dict)))
    numbers = iter(range(100))
    return make


class Interrupted:
    """Writes half of the file that is the ``number``-th and then is interrupted."""

    def __init__(self, number):
        self.left, self.put = number, LocalBackend.put

    def __call__(self, backend, content, path):
        self.left -= 1
        if self.left:
            return self.put(backend, content, path)
        self.put(backend, content[:len(content) // 2], path)
        raise KeyboardInterrupt


@pytest.mark.parametrize('kept', [-1, 1, 2])
def test_interrupt_while_saving_leaves_complete_files(make_runner, tmp_path, monkeypatch, kept):
    interrupted = Interrupted(3)
    monkeypatch.setattr(LocalBackend, 'put', lambda *arguments: interrupted(*arguments))
    with pytest.raises(KeyboardInterrupt):
        make_runner(max_keep_ckpts=kept).train()
    assert latest_checkpoint(tmp_path).name == 'epoch_2.pth'
    expected = {-1: ['epoch_1.pth', 'epoch_2.pth'], 1: ['epoch_2.pth'], 2: ['epoch_1.pth', 'epoch_2.pth']}[kept]
    assert sorted(path.name for path in tmp_path.iterdir() if 'epoch' in path.name) == expected
    for name in expected:
        assert read_checkpoint(tmp_path / name)['meta']['epoch'] == int(name[6])


@pytest.mark.parametrize(('settings', 'left'), [
    (dict(max_keep_ckpts=1), ['epoch_3.pth']),
    (dict(max_keep_ckpts=2), ['epoch_2.pth', 'epoch_3.pth']),
    (dict(max_keep_ckpts=1, filename_tmpl='newest.pth'), ['newest.pth']),
])
def test_outdated_checkpoints_go(make_runner, tmp_path, settings, left):
    make_runner(**settings).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth*')) == left
    assert read_checkpoint(tmp_path / left[-1])['meta']['epoch'] == 3


def test_an_interrupt_says_how_to_go_on_if_this_training_has_a_checkpoint(make_runner, tmp_path, monkeypatch, capsys):
    steps, forward = iter(range(3)), ToyModel.forward

    def interrupted(*arguments, **settings):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return forward(*arguments, **settings)
    monkeypatch.setattr(ToyModel, 'forward', interrupted)
    last = f'; the same command with --resume continues from {tmp_path}/epoch_1.pth'
    for said in (f'interrupted{last}\n', 'interrupted\n'):
        with pytest.raises(SystemExit) as end:
            run_cli(make_runner().train)
        assert (end.value.code, capsys.readouterr().err) == (130, said)


def test_the_terminal_shows_what_is_trained_and_its_progress(make_runner, monkeypatch, capsys):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    runner = make_runner(epochs=1, log_level='INFO')
    runner.optim_wrapper['paramwise_cfg'] = dict(bias_lr_mult=2)
    runner.cfg.auto_scale_lr = dict(base_batch_size=8)
    runner.train()
    log, out = Path(runner.logger.log_file).read_text(), capsys.readouterr().out
    lines = [line.partition('INFO - ')[2] for line in out.splitlines() if 'INFO' in line]
    assert lines[:3] == ['model: ToyModel, 0.00 M parameters, 0.00 M of them trained', 'data: 2 samples to train',
                         'batch: 1 samples, learning rate 0.1, of a run with 8; --auto-scale-lr adapts it']
    assert lines[3] == 'device: cpu, 2 threads' and lines[4].startswith('Epoch(train)') and len(lines) < 8
    assert 'paramwise_options -- linear.bias:lr=0.2' in log and 'System environment' in log


def test_a_validation_without_a_training_names_settings_that_nothing_reads(make_runner, capsys):
    runner = make_runner(log_level='INFO')
    runner._val_dataloader, runner._val_evaluator, runner._val_loop = (
        runner.cfg.train_dataloader, dict(type='ToyMetric'), {})
    runner.cfg.model.test_cfg = observed(Config(dict(mode='whole'))._cfg_dict)
    assert runner.val() == dict(seen=2)
    assert 'settings without effect: model.test_cfg.mode' in capsys.readouterr().out


def test_resume_takes_weights_and_state(make_runner, tmp_path):
    make_runner(epochs=2).train()
    weights = read_checkpoint(tmp_path / 'epoch_2.pth')['state_dict']
    weights_of_start = dict(type='Pretrained', checkpoint='no longer there.pth')
    runner = make_runner(epochs=2, load_from=str(tmp_path / 'epoch_2.pth'), resume=True,
                         model=dict(type='ToyModel', init_cfg=weights_of_start))
    runner.train()
    assert runner.cfg.model.init_cfg == weights_of_start  # the config that is saved keeps it
    assert runner.epoch == 2 and runner.iter == 4
    assert torch.equal(runner.model.linear.weight, weights['linear.weight'])


@pytest.mark.parametrize(('before', 'after', 'saved'), [(1, 3, True), (2, 3, True), (3, 3, True), (3, 3, False)])
def test_a_resumed_training_follows_the_schedules_of_its_config(make_runner, tmp_path, capsys, before, after, saved):
    """The rates of each iteration are those of a training that has had this length from its start."""
    def rates(epochs, **settings):
        runner = make_runner(epochs=epochs, log_level='INFO', **settings)
        runner.cfg.param_scheduler = runner.param_schedulers = [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
            dict(type='MultiStepLR', milestones=[epochs - 1], by_epoch=True), *[
                dict(type='CosineAnnealingLR', begin=1, end=epochs, T_max=epochs - 1, convert_to_iter_based=True)
            ] * (epochs > 1)]
        runner.train()
        return runner.message_hub.get_scalar('train/lr').data[0].tolist()  # those before the checkpoint, too
    whole = rates(after)
    rates(before)
    if not saved:
        state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
        torch.save({key: value for key, value in state.items() if key != 'param_schedulers'}, tmp_path / 'epoch_1.pth')
    capsys.readouterr()
    resumed = rates(after, load_from=str(tmp_path / 'epoch_1.pth'), resume=True)
    assert resumed[2:] == whole[2:] and len(set(whole)) > 4
    said = 'the schedules differ from those of the checkpoint' in capsys.readouterr().out
    assert said == (before != after or not saved)


def test_on_a_slow_machine_progress_is_logged_between_the_intervals(make_runner, monkeypatch, capsys):
    monkeypatch.setattr(hooks, 'PATIENCE', 0)
    make_runner(epochs=1, log_level='INFO').train()
    assert 'Epoch(train) [1][1/2]' in capsys.readouterr().out


def test_the_metrics_of_a_line_are_without_those_of_the_classes(capsys):
    MMLogger.get_instance('one line').handlers[0].addFilter(hooks.is_shown)
    MMLogger.get_instance('one line').info('Epoch(test) [1/1]    coco/a cat_precision: 0.1  coco/dog_precision: nan  '
                                           'coco/bbox_mAP: 0.2  time: 1')
    assert capsys.readouterr().out.endswith('Epoch(test) [1/1]    coco/bbox_mAP: 0.2  time: 1\n')


def test_a_resumed_checkpoint_must_be_complete(make_runner, tmp_path):
    make_runner(epochs=1, model=dict(type='ToyModel', bias=False)).train()
    path = str(tmp_path / 'epoch_1.pth')
    with pytest.raises(CheckpointError, match=r'epoch_1\.pth does not fit the model: .*linear\.bias'):
        make_runner(epochs=2, load_from=path, resume=True).train()
    make_runner(epochs=2, load_from=path).train()  # to start from, what there is will do


def test_weights_alone_cannot_be_resumed(make_runner, tmp_path):
    torch.save({'linear.weight': torch.ones(1, 1), 'linear.bias': torch.ones(1)}, tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='not the state of a training'):
        make_runner(load_from=str(tmp_path / 'weights.pth'), resume=True).train()


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda state: state['meta'].update(iter=-1), 'not the state of a training'),
    (lambda state: state['optimizer']['param_groups'][0].pop('foreach'), None),  # as an older torch saves it
    (lambda state: state['optimizer'].update(param_groups=[dict(lr=1., betas=(1, 1), params=[0, 1])]),
     'of another optimiser, which has betas and not dampening')])
def test_the_state_of_another_training_is_not_resumed(make_runner, tmp_path, spoil, message):
    make_runner(epochs=1).train()
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    spoil(state)
    torch.save(state, tmp_path / 'epoch_1.pth')
    resumed = make_runner(epochs=2, load_from=str(tmp_path / 'epoch_1.pth'), resume=True)
    with pytest.raises(CheckpointError, match=message) if message else nullcontext():
        resumed.train()


@pytest.mark.parametrize(('names', 'message'), [
    (['Disc ', 'square'], None), (None, None),
    (['square', 'disc'], 'the classes of the config in another order, square, disc; write metainfo=dict'),
    (['cat', 'dog'], 'on other classes .*: it has cat, dog, the config has disc, square; use')])
def test_the_classes_of_a_checkpoint_are_those_of_the_data(make_runner, tmp_path, names, message):
    metainfo = dict(classes=('disc', 'square'))
    make_runner(epochs=1, metainfo=metainfo).train()
    state = read_checkpoint(tmp_path / 'epoch_1.pth')
    assert state['meta']['dataset_meta'] == dict(classes=('disc', 'square'))
    state['meta']['dataset_meta'] = dict(classes=names)
    torch.save(state, tmp_path / 'epoch_1.pth')
    resumed = make_runner(epochs=2, load_from=str(tmp_path / 'epoch_1.pth'), resume=True, metainfo=metainfo)
    with pytest.raises(CheckpointError, match=message) if message else nullcontext():
        resumed.train()


@pytest.mark.parametrize('settings', [dict(max_epochs=0), dict(max_epochs=1, val_interval=0),
                                      dict(max_epochs=1, val_interval=float('nan'))])
def test_a_training_of_no_length_is_an_error(make_runner, settings):
    runner = make_runner()
    runner._train_loop = dict(by_epoch=True, **settings)
    with pytest.raises(ConfigError, match='expected at least 1'):
        runner.train()


def test_the_layer_whose_channels_do_not_fit_is_named(make_runner):
    runner = make_runner()
    runner.model.linear = nn.Linear(3, 1)
    with pytest.raises(ConfigError, match=r'^linear \(Linear\) cannot compute: .*shapes'):
        runner.train()


def test_halves_of_checkpoints_are_removed_by_the_next_run_of_the_folder(make_runner, tmp_path):
    (tmp_path / '.iter_76.pth.partial-a1').mkdir()
    (tmp_path / '.iter_76.pth.partial-a1/iter_76.pth').write_text('half')
    make_runner(epochs=1).train()
    assert not list(tmp_path.glob('.*.partial-*'))


def test_a_scheduler_that_ends_the_run_gets_a_checkpoint(make_runner, tmp_path, monkeypatch, capsys):
    steps, forward = iter(range(2)), ToyModel.forward

    def asked(*arguments, **settings):
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*arguments, **settings)
    monkeypatch.setattr(ToyModel, 'forward', asked)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            make_runner().train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    said = f'terminated; the same command with --resume continues from {tmp_path}/iter_3.pth\n'
    assert capsys.readouterr().err == said
    assert latest_checkpoint(tmp_path) == tmp_path / 'iter_3.pth'
    assert read_checkpoint(tmp_path / 'iter_3.pth')['meta']['iter'] == 3
    monkeypatch.undo()
    resumed = make_runner(load_from=str(tmp_path / 'iter_3.pth'), resume=True)
    resumed.train()
    assert (resumed.epoch, resumed.iter) == (3, 6)


def test_a_batch_larger_than_the_data_set_is_an_error(make_runner):
    runner = make_runner()
    loader = {**runner.cfg.train_dataloader, 'batch_size': 3, 'drop_last': True}
    with pytest.raises(DatasetError, match=r'2 samples .* fewer than a batch of 3 .*train_dataloader\.batch_size='):
        runner.build_dataloader(loader)


@pytest.mark.parametrize(('setting', 'named'), [
    (dict(batch_size=0), 'batch_size=0'), (dict(num_workers=-1), 'num_workers')])
def test_settings_of_a_loader_are_not_taken_for_a_mistake_in_the_data(make_runner, setting, named):
    runner = make_runner()
    runner._train_dataloader.update(setting)
    with pytest.raises(ConfigError, match=f'the config does not fit: .*{named}'):
        runner.train()


@pytest.mark.parametrize('make', [
    lambda folder: run(Config(dict(work_dir=str(folder), launcher='none')), 'train'),
    lambda folder: TOOLBOXES['mmdet'].draw_predictions(Config(), str(folder)),
    lambda folder: TOOLBOXES['mmseg'].dump_predictions(Config(dict(test_evaluator={})), str(folder)),
    lambda folder: TOOLBOXES['mmdet'].dump_predictions(Config(dict(test_evaluator={})), f'{folder}/x.pkl'),
], ids=['--work-dir', '--show-dir', '--out', '--out x.pkl'])
def test_a_results_folder_that_cannot_be_created_is_an_error_before_the_run(tmp_path, make):
    (tmp_path / 'file').write_text('kept')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'inside'):
        with pytest.raises(ConfigError, match=f'^--.* {folder}: the folder cannot be created: .*; choose another$'):
            make(folder)
    assert (tmp_path / 'file').read_text() == 'kept'


def test_an_unexpected_setting_is_reported_with_its_place(make_runner):
    runner = make_runner()
    runner.cfg.other = dict(steps=[dict(batchsize=1)], batchsize=2)
    runner.cfg.train_dataloader.batchsize = 3
    runner._train_dataloader = runner.cfg.train_dataloader
    with pytest.raises(ConfigError) as error:
        runner.train()
    assert str(error.value).endswith(
        "argument 'batchsize' (train_dataloader.batchsize, other.steps.0.batchsize, other.batchsize)")


# --- What is loaded -------------------------------------------------------------------------------------------------

@MODELS.register_module()
class ToyPyramid(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = RepViT(TINY)

    def forward(self, x, mode='tensor'):
        return dict(loss=self.backbone(x)[-1].square().mean())


TINY = {'widths': (8,) * 4, 'depths': (1,) * 4}


def test_values_that_are_not_finite_are_not_tested(make_runner, tmp_path):
    torch.save({'linear.weight': torch.ones(1, 1), 'linear.bias': torch.tensor([float('nan')])}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth: 1 of 2 tensors hold .* or NaN, first linear.bias'):
        make_runner(load_from=str(tmp_path / 'x.pth')).load_or_resume()


@pytest.mark.parametrize('averages', [False, True])
def test_a_fused_file_is_tested_at_its_speed_and_not_trained(make_runner, tmp_path, monkeypatch, averages):
    fused = fuse(ToyPyramid().eval())
    torch.save({'state_dict': fused.state_dict()}, tmp_path / 'x.pth')
    runner = make_runner(model=dict(type='ToyPyramid'), load_from=str(tmp_path / 'x.pth'))
    with pytest.raises(CheckpointError, match='is fused, for inference only'):
        runner.load_or_resume()
    if averages:
        runner.register_hook(dict(type='EMAHook'))

    def test(self):
        self.call_hook('before_run')
        self.load_or_resume()
        self.call_hook('before_test_epoch')
    monkeypatch.setattr('mmengine.runner.Runner.test', test)
    runner.test()
    assert runner.model.state_dict().keys() == fused.state_dict().keys()
    assert all(torch.equal(value, fused.state_dict()[name]) for name, value in runner.model.state_dict().items())


def test_a_warm_up_that_never_ends_is_refused(make_runner):
    """mmengine applies the first factor of such a schedule, and never the last one."""
    runner = make_runner()
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.build_param_scheduler([dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=2)])
    with pytest.raises(ConfigError, match='LinearLR from 0 to 1 never reaches the full learning rate'):
        runner.build_param_scheduler([dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=1)])
