"""The command ``repvit-mm`` of an installed wheel: its commands, the tools behind them, and the doctor."""
import os
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from installed import ROOT, attempt, make_environment, run

import repvit_mm
import repvit_mm_cli
from repvit_mm.cli import doctor
from repvit_mm.datasets.shapes import write_classification
from repvit_mm.version import __version__


@pytest.fixture(scope='module')
def bare(wheel, tmp_path_factory):
    """The Python of an environment that has the wheel and nothing else."""
    return make_environment(tmp_path_factory.mktemp('bare'), wheel)


# The commands

def test_overview_names_every_tool_where_nothing_is_installed(bare, tmp_path):
    output = run(bare, '-m', 'repvit_mm', cwd=tmp_path)
    about = dict(line.split(maxsplit=1) for line in output.splitlines() if line.startswith('  '))
    scripts = {path.stem.replace('_', '-') for path in (ROOT / 'tools').iterdir()
               if path.suffix in ('.py', '.sh') and not path.name.startswith('_')}
    assert {'train', 'test', 'fuse', 'get-flops', 'benchmark', 'export', 'dist-train'} <= scripts
    assert set(about) == {'doctor', *scripts}
    assert run(bare, '-m', 'repvit_mm', '--help', cwd=tmp_path) == output


def test_a_new_tool_needs_no_edit(tmp_path):
    (tmp_path / 'make_coffee.py').write_text('"""Make coffee: tools/make_coffee.py CUPS [options].\n\nHot."""\n')
    (tmp_path / 'dist_coffee.sh').write_text('#!/bin/bash\n# Make much coffee:\n#   tools/dist_coffee.sh CUPS\n')
    (tmp_path / '_grind.py').write_text('')
    (tmp_path / 'notes.txt').write_text('')
    found = repvit_mm_cli.find_tools(tmp_path)
    assert {name: tool.about for name, tool in found.items()} == {
        'make-coffee': 'Make coffee', 'dist-coffee': 'Make much coffee'}


@pytest.mark.parametrize('name', repvit_mm_cli.find_tools())
def test_every_tool_has_a_description(name):
    about = repvit_mm_cli.find_tools()[name].about
    assert about[:1].isupper() and len(about) < 100 and 'tools/' not in about


def command(monkeypatch, *arguments):
    """Run ``repvit-mm``; what it ends with."""
    monkeypatch.setattr(sys, 'argv', ['repvit-mm', *arguments])
    with pytest.raises(SystemExit) as end:
        repvit_mm_cli.main()
    return end.value.code


@pytest.mark.parametrize(('name', 'hint'), [
    ('trian', '; did you mean train?'), ('predct', '; did you mean predict?'), ('zzz', '; choose from doctor, ')])
def test_unknown_command_is_one_line(monkeypatch, name, hint):
    error = command(monkeypatch, name)
    assert error.startswith(f'error: unknown command {name}{hint}') and '\n' not in error


def test_version(monkeypatch, capsys):
    assert not command(monkeypatch, '--version')
    assert capsys.readouterr().out == f'repvit-mm {__version__}\n' == f'repvit-mm {repvit_mm.__version__}\n'


@pytest.mark.parametrize(('name', 'tool', 'shown'), [
    ('get_flops', [sys.executable, 'get_flops.py'], 'get-flops'), ('predict', [sys.executable, 'infer.py'], 'infer'),
    ('val', [sys.executable, 'test.py'], 'test'), ('slurm-train', ['bash', 'slurm_train.sh'], 'slurm-train')])
def test_tool_becomes_the_process(monkeypatch, tmp_path, name, tool, shown):
    started = []
    monkeypatch.setattr(os, 'execvp', lambda file, arguments: started.append((file, arguments)))
    for variable, value in (('PYTHONPATH', '/theirs'), ('PYTHON', ''), ('REPVIT_MM_COMMAND', '')):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv('PYTHON')
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, name, '--shape', '64')
    assert started == [(tool[0], [tool[0], str(repvit_mm_cli.TOOLS / tool[1]), '--shape', '64'])]
    # A config can import the modules beside it, and a shell script uses this Python.
    assert os.environ['PYTHONPATH'] == f'{tmp_path}{os.pathsep}/theirs'
    assert os.environ['PYTHON'] == sys.executable
    assert os.environ['REPVIT_MM_COMMAND'] == f'repvit-mm {shown}'


@pytest.mark.parametrize(('broken', 'reason'), [
    ('', 'mmengine, which is not installed'),
    ('raise OSError("libcudart.so: no file\\nmore")', 'mmengine, which cannot be imported: libcudart.so: no file'),
    ('import no_such_torch', 'no_such_torch, which is not installed')])
def test_functions_that_need_mmengine_say_so_when_used(bare, tmp_path, broken, reason):
    if broken:
        (tmp_path / 'mmengine').mkdir()
        (tmp_path / 'mmengine' / '__init__.py').write_text(broken)
    for line in ('from repvit_mm import RepViT', 'import repvit_mm; repvit_mm.fuse'):
        error = attempt(bare, '-c', line, cwd=tmp_path).stderr.splitlines()[-1]
        assert error == f'ImportError: repvit_mm needs {reason}; `repvit-mm doctor` explains how to fix it'
    assert run(bare, '-m', 'repvit_mm', '--version', cwd=tmp_path) == f'repvit-mm {__version__}\n'
    assert "no attribute 'nothing'" in attempt(bare, '-c', 'import repvit_mm; repvit_mm.nothing', cwd=tmp_path).stderr
    doctor_says = attempt(bare, '-m', 'repvit_mm', 'doctor', cwd=tmp_path).stdout
    assert 'mmengine' in doctor_says and 'RepViT cannot be trained here: ' in doctor_says


@pytest.mark.parametrize('argument', [['--help'], ['--version'], ['doctor']])
def test_the_command_itself_does_not_load_torch(argument):
    code = ('import atexit, sys; atexit.register(lambda: print(*sys.modules))\n'
            'import repvit_mm_cli; repvit_mm_cli.main()')
    loaded = run(sys.executable, '-c', code, *argument).splitlines()[-1].split()
    assert 'repvit_mm_cli' in loaded and not {'torch', 'mmengine', 'rich'} & set(loaded)


# Tools of the wheel, in an empty folder

def test_usage_error_of_a_tool_passes_through(stranger, tmp_path):
    result = attempt(stranger.parent / 'repvit-mm', 'dist-train', 'x.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == 'usage: repvit-mm dist-train CONFIG GPUS [options of train.py]\n'


@pytest.mark.slow
def test_train_with_an_installed_config(stranger, tmp_path):
    write_classification(tmp_path / 'shapes', size=64, train=16, val=8, quiet=True)
    run(stranger, '-m', 'repvit_mm', 'train', 'repvit_mm::quickstart/classifier_repvit_m0_6_shapes.py', '--data-root',
        'shapes', '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', cwd=tmp_path)
    assert (tmp_path / 'work_dirs' / 'classifier_repvit_m0_6_shapes' / 'epoch_1.pth').is_file()


# The doctor

def test_doctor_of_a_whole_environment(stranger, tmp_path):
    code = 'import repvit_mm_cli; repvit_mm_cli.main()'
    lines = run(stranger, '-OO', '-c', code, 'doctor', cwd=tmp_path).splitlines()
    assert lines[-1] == 'RepViT can be trained here, with mmdet, mmseg, mmpretrain.'
    found = {line.split()[1]: line.split()[2] for line in lines if line[:1] == '✓'}
    assert {'torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet', 'mmseg', 'mmpretrain'} <= set(found)
    assert found['torch'].partition('+')[0] == torch.__version__.partition('+')[0]


def test_doctor_without_anything(bare, tmp_path):
    result = attempt(bare, '-m', 'repvit_mm', 'doctor', cwd=tmp_path)
    assert result.returncode == 1 and not result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1].startswith('RepViT cannot be trained here: ')
    for name, mark, word in (('torch', '✗', 'missing:'), ('mmengine', '✗', 'missing:'), ('mmcv', '✗', 'missing:'),
                             ('mmdet', '✗', 'missing:'), ('onnx', '-', 'optional,'), ('gradio', '-', 'optional,')):
        assert any(line.split()[:3] == [mark, name, word] for line in lines), name
    commands = [line for line in lines if line.startswith('pip ')]
    assert commands[0] == 'pip install "torch>=2.1" torchvision'  # before what is built with it
    assert commands[1].startswith('pip install "onedl-mmengine>=')
    assert commands.count('pip install "repvit-mm[export]"') == 1


def test_versions_that_the_doctor_installs_are_those_of_the_extras():
    named = ' '.join(word for piece in doctor.STACK for word in piece.install)
    onedl, = re.findall(r'^onedl = \[(.*?)\]', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE | re.DOTALL)
    requirements = re.findall('"(.*?)"', onedl)
    assert len(requirements) == 7 and [one for one in requirements if one not in named] == []


@pytest.fixture
def installed(monkeypatch):
    """Lets the doctor find these distributions alone: name -> version."""
    def install(**versions):
        versions = {name.replace('_', '-'): version for name, version in versions.items()}
        monkeypatch.setattr(doctor, 'installed_version', versions.get)
        monkeypatch.setattr(doctor.metadata, 'requires', lambda name: ['numpy', 'torch==2.8.0', 'torchaudio==1'])
        monkeypatch.setattr(doctor, 'find_spec', lambda name: SimpleNamespace(submodule_search_locations=[]))
    return install


WHOLE = dict(torch='2.8.0+cpu', torchvision='0.23', onedl_mmengine='1', onedl_mmcv='1', onedl_mmdetection='1')


@pytest.mark.parametrize(('versions', 'trains', 'found', 'command'), [
    (WHOLE, ['mmdet'], None, ''),
    ({**WHOLE, 'mmengine': '1', 'mmcv': '1'}, [], ('stack', 'onedl and upstream mixed'),
     'pip uninstall -y onedl-mmengine '),
    ({**WHOLE, 'torch': '2.9.1'}, [], ('torchvision', '0.23 needs torch 2.8.0, but 2.9.1 is installed'),
     'pip install --force-reinstall torch torchvision'),
    (dict(torch='2.1.2', torchvision='0.16', mmengine='1'), [], ('mmcv', 'missing: disables the toolboxes'),
     'pip install "setuptools<81" && MMCV_WITH_OPS=0 pip install --no-build-isolation --no-cache-dir "mmcv>=2.0,<2.2"'),
    ({name: WHOLE[name] for name in list(WHOLE)[:4]}, [], ('mmseg', 'missing: disables semantic segmentation'),
     'pip install --no-build-isolation "onedl-mmsegmentation'),
])
def test_the_doctor_finds_problems(installed, versions, trains, found, command):
    installed(**versions)
    findings, toolboxes = doctor.examine(deep=False)
    assert toolboxes == trains
    wrong = {one.name: one for one in findings if one.works is False}
    assert (found is None) == (not wrong)
    if found:
        assert wrong[found[0]].found.startswith(found[1]) and wrong[found[0]].command.startswith(command)
    assert {one.name for one in findings if one.works is None} >= {'timm', 'onnx', 'gradio'}


def test_deep_reports_packages_that_cannot_be_imported(installed, monkeypatch):
    installed(**WHOLE)
    monkeypatch.setattr(doctor, 'import_error', lambda module: 'undefined symbol: _ZN3c10')
    torch_line = doctor.check(doctor.STACK[0], 0, deep=True)
    assert torch_line[1:3] == ('2.8.0+cpu cannot be imported: undefined symbol: _ZN3c10', False)
