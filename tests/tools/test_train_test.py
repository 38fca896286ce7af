"""tools/train.py and tools/test.py from end to end, with every toolbox."""
import functools
import json
import pickle
import re
import shutil

import pytest
import tool_runs
import torch
from running import TOOLS, run_tool

import repvit_mm
from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.engine.config import load_config

pytestmark = pytest.mark.slow
#: What a run ends with, by toolbox: its last checkpoint, and the figure that its evaluation gives.
RESULTS = {'mmdet': ('iter_2.pth', 'coco/bbox_mAP'), 'mmseg': ('iter_2.pth', 'mIoU'),
           'mmpretrain': ('epoch_1.pth', 'accuracy/top1')}


class Trained:
    def __init__(self, toolbox, root):
        pytest.importorskip(toolbox)
        self.toolbox, self.root = toolbox, root
        self.config, self.data = tool_runs.set_up(toolbox, root)
        self.work_dir = root / 'work'
        status, _, error = run_tool('train', self.config, '--data-root', self.data, '--work-dir', self.work_dir,
                                    '--seed', 1)
        assert status == 0, error
        self.checkpoint = self.work_dir / RESULTS[toolbox][0]


@pytest.fixture(scope='module')
def trained_once(tmp_path_factory):
    return functools.cache(lambda toolbox: Trained(toolbox, tmp_path_factory.mktemp(toolbox)))


@pytest.fixture(params=list(tool_runs.TOOLBOXES))
def trained(request, trained_once):
    return trained_once(request.param)


@pytest.fixture
def detector(trained_once):
    return trained_once('mmdet')


def logged(work_dir, key):
    """Values of ``key`` in the logs of a work directory, the newest run last."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def figures_of(work_dir):
    path, = (path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name)
    return json.loads(path.read_text())


def test_test_gives_the_figures_of_the_validation(trained, tmp_path):
    pictures, out = tmp_path / 'pictures', tmp_path / ('maps' if trained.toolbox == 'mmseg' else 'out.pkl')
    status, _, error = run_tool('test', trained.config, trained.checkpoint, '--data-root', trained.data, '--work-dir',
                                tmp_path / 'work', '--show-dir', pictures, '--out', out, '--report', tmp_path)
    assert status == 0, error
    key = RESULTS[trained.toolbox][1]
    assert figures_of(tmp_path / 'work')[key] == pytest.approx(logged(trained.work_dir, key)[-1], abs=1e-6)
    assert len(list(pictures.rglob('*.png'))) >= 3
    page = (tmp_path / 'report.html').read_text()
    assert key in page and '<h2>Training</h2><img src="data:image/png' in page
    kept = sorted(out.iterdir()) if trained.toolbox == 'mmseg' else pickle.loads(out.read_bytes())
    assert len(kept) == tool_runs.TOOLBOXES[trained.toolbox][-1]


def test_a_training_ends_with_the_command_of_the_test(trained):
    log, = trained.work_dir.glob('*/*.log')
    line = log.read_text().rstrip().splitlines()[-1]
    assert line.startswith(f'next: repvit-mm test {trained.work_dir / trained.config.name} {trained.work_dir}/')
    assert (trained.work_dir / trained.config.name).is_file()


@pytest.mark.parametrize('trained', ['mmseg', 'mmpretrain'], indirect=True)
def test_time_augmentation(trained, tmp_path):
    status, _, error = run_tool('test', trained.config, trained.checkpoint, '--data-root', trained.data, '--work-dir',
                                tmp_path, '--tta')
    assert status == 0, error
    assert RESULTS[trained.toolbox][1] in figures_of(tmp_path)


def test_resume_goes_on_where_the_run_stopped(detector, tmp_path):
    work_dir = shutil.copytree(detector.work_dir, tmp_path / 'moved')
    status, _, error = run_tool('train', detector.config, '--data-root', detector.data, '--work-dir', work_dir,
                                '--resume', '--cfg-options', 'train_cfg.max_iters=4')
    assert status == 0, error
    assert logged(work_dir, 'iter') == [1, 2, 3, 4]
    before, after = read_checkpoint(detector.checkpoint), read_checkpoint(work_dir / 'iter_4.pth')
    assert before['meta']['iter'] == 2 and after['meta']['iter'] == 4
    steps = {int(state['step']) for state in after['optimizer']['state'].values()}
    assert max(steps) == 4  # of AdamW, which did not start anew
    weight = 'backbone.stem.conv1.conv.weight'
    assert not torch.equal(before['state_dict'][weight], after['state_dict'][weight])


def test_load_from_starts_anew_with_the_weights(detector, tmp_path):
    status, _, error = run_tool('train', detector.config, '--data-root', detector.data, '--work-dir', tmp_path,
                                '--cfg-options', f'load_from={detector.checkpoint}', 'optim_wrapper.optimizer.lr=0.')
    assert status == 0, error
    before, after = read_checkpoint(detector.checkpoint), read_checkpoint(tmp_path / 'iter_2.pth')
    assert after['meta']['iter'] == 2
    for name, parameter in before['state_dict'].items():
        if name.endswith('.weight'):
            assert torch.equal(parameter, after['state_dict'][name]), name


def test_mixed_precision(trained, tmp_path):
    status, _, error = run_tool('train', trained.config, '--amp', '--data-root', trained.data, '--work-dir', tmp_path,
                                '--seed', 1)
    assert status == 0, error
    losses, plain = logged(tmp_path, 'loss'), logged(trained.work_dir, 'loss')
    assert losses == pytest.approx(plain, rel=0.1) and losses != plain


def test_official_names_and_fused_weights_are_tested_alike(detector, tmp_path):
    state_dict = read_checkpoint(detector.checkpoint)['state_dict']
    official = tmp_path / 'official.pth'
    torch.save(dict(state_dict=repvit_mm.convert_state_dict(state_dict, to='official')), official)
    fused = tmp_path / 'fused.pth'
    torch.save(dict(state_dict=repvit_mm.fuse(build(detector.config, state_dict)).state_dict()), fused)
    figures = {}
    for path in (detector.checkpoint, official, fused):
        work_dir = tmp_path / path.stem
        status, _, error = run_tool('test', detector.config, path, '--data-root', detector.data, '--work-dir', work_dir)
        assert status == 0, error
        figures[path] = {key: value for key, value in figures_of(work_dir).items() if key.startswith('coco/')}
    reference = figures.pop(detector.checkpoint)
    for found in figures.values():
        assert found == pytest.approx(reference, abs=2e-3)


def build(config, state_dict):
    from mmengine.registry import MODELS, DefaultScope
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(load_config(config).model).eval()
    model.load_state_dict(state_dict)
    return model


def damage(data, what):
    annotations = data / 'annotations' / 'instances_train.json'
    if what == 'other classes':
        content = json.loads(annotations.read_text())
        for category in content['categories']:
            category['name'] = f'other {category["name"]}'
        annotations.write_text(json.dumps(content))
    else:
        shutil.rmtree(data / 'images' / 'train')
        (data / 'images' / 'train').mkdir()


@pytest.mark.parametrize(('what', 'message'), [
    ('other classes', r'cannot read the data set of .*: it has no samples left; .* classes'),
    ('missing images', r'4 of 4 checked images are missing, first \S+\.png'),
])
def test_damaged_data_set_is_one_line(detector, tmp_path, what, message):
    data = shutil.copytree(detector.data, tmp_path / 'shapes')
    damage(data, what)
    assert_one_line(run_tool('train', detector.config, '--data-root', data, '--work-dir', tmp_path / 'work'), message)


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], r'data/shapes_detection/annotations/instances_train\.json: No such file .*--data-root'),
    (['--cfg-options', 'model.backbone.width=3'], r"RepViT.*argument 'width' \(model\.backbone\.width\)$"),
    (['--cfg-options', 'model.neck.type=FNP'], r'FNP is not in the mmdet::model registry'),
    (['--cfg-options', 'model.neck.num_outs=-1'],
     r'mmdet_tiny\.py does not fit: AssertionError: assert num_outs .*fpn\.py'),
    (['--cfg-options', 'train_dataloader.bath_size=3'], r"argument 'bath_size' \(train_dataloader\.bath_size\)$"),
    (['--cfg-options', 'train_cfg.max_itersx=3'], r"argument 'max_itersx' \(train_cfg\.max_itersx\)$"),
])
def test_mistake_in_an_option_is_one_line(detector, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    data = ['--data-root', detector.data] if arguments else []
    assert_one_line(run_tool('train', detector.config, '--work-dir', tmp_path / 'work', *data, *arguments), message)


def test_weights_that_cannot_be_had(detector, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('REPVIT_MM_WEIGHTS_URL', 'http://127.0.0.1:9')  # where nobody listens
    monkeypatch.setenv('REPVIT_MM_ALLOW_HTTP', '1')
    config = tmp_path / 'pretrained.py'
    init_cfg = dict(type='Pretrained', checkpoint='repvit://m0_6_distill_300e')
    config.write_text(f'_base_ = {str(detector.config)!r}\nmodel = dict(backbone=dict(init_cfg={init_cfg}))\n')
    arguments = ['train', config, '--data-root', detector.data, '--work-dir', tmp_path / 'work']
    assert_one_line(run_tool(*arguments), r'cannot download repvit://m0_6_distill_300e .*--no-pretrained')
    assert run_tool(*arguments, '--no-pretrained')[0] == 0


def assert_one_line(result, message):
    status, _, error = result
    assert status == 1
    lines = [line for line in error.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and re.search(message, lines[0]), error
    assert 'Traceback' not in error and error.rstrip().endswith(lines[0])


def test_the_detection_config_of_the_docs_trains(tmp_path, monkeypatch):
    """As it stands on the page, on cats and dogs that are circles and squares, in small."""
    page = (TOOLS.parent / 'docs/own_data.md').read_text()
    config = re.search(r"```python\n(_base_ = 'repvit_mm::detection.*?)```", page, re.S)[1]
    (tmp_path / 'pets.py').write_text(config)
    monkeypatch.chdir(tmp_path)
    shapes = tool_runs.write_coco(tmp_path / 'shapes', tool_runs.SIZE, train=3, val=2, quiet=True)
    for split in ('train', 'val'):
        shutil.copytree(shapes / 'images' / split, tmp_path / 'data/pets' / split)
        labels = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        for category, name in zip(labels['categories'], ('cat', 'dog'), strict=False):
            category['name'] = name
        (tmp_path / f'data/pets/{split}.json').write_text(json.dumps(labels))
    small = [f'{loader}.{setting}' for loader, resize in (('train_dataloader', 2), ('val_dataloader', 1))
             for setting in (f'dataset.pipeline.{resize}.scale=(64,64)', 'num_workers=0', 'persistent_workers=False')]
    status, _, error = run_tool('train', 'pets.py', '--no-pretrained', '--cfg-options', 'train_cfg.max_epochs=1',
                                *small)
    assert status == 0, error
    assert (tmp_path / 'work_dirs/pets/epoch_1.pth').is_file()
    assert len(logged(tmp_path / 'work_dirs/pets', 'coco/segm_mAP')) == 1
    assert 'cat' in (tmp_path / 'work_dirs/pets/pets.py').read_text()
