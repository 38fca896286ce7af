"""Finding configs, reading them, overriding settings; no toolbox needed."""
import pytest

from repvit_mm import config_path
from repvit_mm.engine.config import INSTALLED_CONFIGS, find_config, load_config
from repvit_mm.errors import ConfigError
from repvit_mm.toolboxes import TOOLBOXES, Toolbox


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(('text', 'message'), [
    ('model = dict(', r'cannot be read: SyntaxError'),
    ('model = dict(depth=undefined)', r'cannot be read: NameError.*undefined'),
    ("_base_ = './missing.py'", r'cannot be read: .*missing\.py'),
    ("custom_imports = dict(imports=['no_such_module'])", r'cannot be read: ImportError'),
    ("_base_ = 'no_such_package::x.py'", r'cannot be read'),
])
def test_broken_config_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(tmp_path / 'broken.py', text))
    assert '\n' not in str(error.value) and 'broken.py' in str(error.value)


def test_what_a_broken_config_prints_is_shown(tmp_path, capsys):
    with pytest.raises(ConfigError):
        load_config(write(tmp_path / 'broken.py', "print('here')\nmodel = undefined"))
    assert capsys.readouterr().out == 'here\n'


def test_a_folder_with_an_apostrophe_is_an_error(tmp_path):
    folder = tmp_path / "o'brien"
    folder.mkdir()
    with pytest.raises(ConfigError, match='a path with an apostrophe breaks configs with {{ fileDirname }}: rename'):
        load_config(write(folder / 'x.py', "path = '{{ fileDirname }}/train.txt'"))
    load_config(write(folder / 'x.py', 'a = 1'))


INSTALLED = INSTALLED_CONFIGS / 'detection' / 'maskrcnn_repvit_m1_1.py'


@pytest.mark.parametrize('name', [
    'configs/detection/maskrcnn_repvit_m1_1.py', 'detection/maskrcnn_repvit_m1_1.py',
    'repvit_mm::detection/maskrcnn_repvit_m1_1.py', 'maskrcnn_repvit_m1_1', INSTALLED])
def test_config_that_is_not_here_is_taken_from_the_package(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == INSTALLED


@pytest.mark.parametrize(('scope', 'name'), [
    ('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py'), ('mmseg', 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'),
    ('mmpretrain', 'resnet/resnet18_8xb32_in1k.py')])
def test_config_of_a_toolbox(scope, name):
    cfg = load_config(f'{scope}::{name}')
    assert cfg.default_scope == scope and cfg.filename.endswith(f'configs/{name}')


@pytest.mark.parametrize(('name', 'message'), [
    ('mmdet::yolox/yolox_tinny_8xb8-300e_coco.py', r'; did you mean yolox/yolox_tiny_8xb8-300e_coco\.py\?'),
    ('mmdit::yolox/x.py', 'mmdit:: is not an installed toolbox; expected one of mmpretrain, mmdet, mmseg'),
])
def test_slip_in_the_name_of_a_config_of_a_toolbox(name, message):
    with pytest.raises(ConfigError, match=message):
        load_config(name)


def test_config_that_is_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'detection').mkdir()
    path = write(tmp_path / 'detection' / INSTALLED.name, '')
    assert find_config(f'detection/{INSTALLED.name}').samefile(path)


@pytest.mark.parametrize(('name', 'hint'), [
    ('detection/maskrcnn_repvit_m1-1.py', 'did you mean detection/maskrcnn_repvit_m1_1.py?'),
    ('repvit_mm::maskrcnn_repvit_m1-1', 'did you mean detection/maskrcnn_repvit_m1_1.py?'),
    ('configs/classifcation/repvit_m1_1_300e.py', 'did you mean classification/repvit_m1_1_300e.py?'),
    ('here/maskrcnn_m1_7.py', 'did you mean here/maskrcnn_m1_1.py?'),
    ('nowhere/x.py', f'the installed ones are in {INSTALLED_CONFIGS}')])
def test_slip_in_the_name_of_a_config(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'here').mkdir()
    write(tmp_path / 'here' / 'maskrcnn_m1_1.py', '')
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert str(error.value) == f'there is no config {name}; {hint}'


def test_file_of_another_kind_is_not_a_config(tmp_path):
    with pytest.raises(ConfigError, match=r'README\.md cannot be read: OSError: Only py/yml/yaml/json'):
        load_config(write(tmp_path / 'README.md', ''))


def test_config_for_a_toolbox_that_is_not_installed(tmp_path, monkeypatch):
    absent = type('Absent', (Toolbox,), dict(scope='mmabsent'))
    monkeypatch.setitem(TOOLBOXES, 'mmabsent', absent())
    with pytest.raises(ConfigError, match='mmabsent, which is not installed; `repvit-mm doctor`'):
        load_config(write(tmp_path / 'x.py', "default_scope = 'mmabsent'"))


def test_options_override_settings(tmp_path):
    path = write(tmp_path / 'x.py', 'train_cfg = dict(max_epochs=3)\nsteps = [dict(end=1), dict(end=2)]')
    cfg = load_config(path, {'train_cfg.max_epochs': 5, 'steps.1.end': 7, 'randomness.seed': 1})
    assert (cfg.train_cfg.max_epochs, cfg.steps[1].end, cfg.randomness.seed) == (5, 7, 1)


@pytest.mark.parametrize(('key', 'message'), [
    ('trian_cfg.max_epochs', r'unknown setting trian_cfg; did you mean train_cfg\?'),
    ('zzz', r'unknown setting zzz$'),
    ('data_root', r'use --data-root, which changes every loader'),
    ('steps.5.end', r'--cfg-options cannot be applied'),
    ('max_epochs', r'max_epochs has no effect: .* used its variable max_epochs already; set train_cfg\.max_epochs$'),
    ('train_pipeline.0.scale', r'has no effect: .*; set train_dataloader\.dataset\.pipeline$'),
])
def test_option_that_cannot_be_set(tmp_path, key, message):
    path = write(tmp_path / 'x.py', 'max_epochs = 3\nown = 2\ntrain_cfg = dict(max_epochs=3)\nsteps = [dict(end=1)]\n'
                 'train_pipeline = [dict(scale=4)]\ntrain_dataloader = dict(dataset=dict(pipeline=train_pipeline))')
    with pytest.raises(ConfigError, match=message):
        load_config(path, {key: 1})
    assert load_config(path, {'own': 1}).own == 1  # a project's hook may read it


def test_config_path_is_that_of_an_installed_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path('detection/maskrcnn_repvit_m1_1.py') == str(INSTALLED)
    with pytest.raises(ConfigError, match=r'^there is no config maskrcnn_m1_1\.py; did you mean detection/'):
        config_path('maskrcnn_m1_1.py')
