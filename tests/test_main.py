"""The command ``repvit-mm`` of an installed wheel: its commands, the tools behind them, and the doctor."""
import json
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
from repvit_mm.models.inference import build_inference_model, randomise_weights
from repvit_mm.version import __version__

CLASSIFIER = 'classification/repvit_m0_6_300e.py'


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
    assert {'train', 'test', 'fuse', 'get-flops', 'benchmark', 'export-onnx', 'dist-train'} <= scripts
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
def test_every_tool_says_what_it_does(name):
    about = repvit_mm_cli.find_tools()[name].about
    assert about[:1].isupper() and len(about) < 100 and 'tools/' not in about


@pytest.mark.parametrize(('name', 'hint'), [('trian', 'did you mean train? Choose from doctor, '),
                                            ('zzz', 'choose from doctor, ')])
def test_unknown_command_is_one_line(monkeypatch, name, hint):
    monkeypatch.setattr(sys, 'argv', ['repvit-mm', name])
    with pytest.raises(SystemExit, match=f'^error: unknown command {name}; ') as error:
        repvit_mm_cli.main()
    assert hint in str(error.value) and 'get-flops' in str(error.value) and '\n' not in str(error.value)


def test_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['repvit-mm', '--version'])
    repvit_mm_cli.main()
    assert capsys.readouterr().out == f'repvit-mm {__version__}\n'
    assert repvit_mm.__version__ == __version__


@pytest.mark.parametrize(('name', 'command'), [
    ('get_flops', [sys.executable, 'get_flops.py', '--shape', '64', '64']),
    ('slurm-train', ['bash', 'slurm_train.sh', '--shape', '64', '64'])])
def test_tool_becomes_the_process(monkeypatch, tmp_path, name, command):
    started = []
    monkeypatch.setattr(os, 'execvpe', lambda file, arguments, env: started.append((file, arguments, env)))
    monkeypatch.setattr(sys, 'argv', ['repvit-mm', name, '--shape', '64', '64'])
    monkeypatch.setenv('PYTHONPATH', '/theirs')
    monkeypatch.delenv('PYTHON', raising=False)
    monkeypatch.chdir(tmp_path)
    repvit_mm_cli.main()
    (file, arguments, env), = started
    assert [file, *arguments[1:]] == [command[0], str(repvit_mm_cli.TOOLS / command[1]), *command[2:]]
    # A config can import the modules beside it, and a shell script uses this Python.
    assert env['PYTHONPATH'] == f'{tmp_path}{os.pathsep}/theirs'
    assert env['PYTHON'] == sys.executable
    # A shell script has a usage of its own.
    assert env.get('REPVIT_MM_COMMAND') == ('repvit-mm get-flops' if name == 'get_flops' else None)


@pytest.mark.parametrize(('broken', 'reason'), [
    ('', 'mmengine, which is not installed'),
    ('raise OSError("libcudart.so: no file\\nmore")', 'mmengine, which cannot be imported: libcudart.so: no file'),
    ('import no_such_torch', 'no_such_torch, which is not installed')])
def test_what_needs_mmengine_says_so_when_it_is_used(bare, tmp_path, broken, reason):
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


@pytest.mark.parametrize('argument', ['--help', '--version'])
def test_the_command_itself_loads_neither_torch_nor_the_package(argument):
    code = 'import sys, repvit_mm_cli; repvit_mm_cli.main(); print(*sys.modules)'
    loaded = run(sys.executable, '-c', code, argument).split()
    assert 'repvit_mm_cli' in loaded and not {'torch', 'repvit_mm'} & set(loaded)


# Tools of the wheel, in an empty folder

def test_usage_error_of_a_tool_passes_through(stranger, tmp_path):
    result = attempt(stranger.parent / 'repvit-mm', 'dist-train', 'x.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ') and 'dist_train.sh CONFIG GPUS' in result.stderr


@pytest.mark.slow
def test_fuse_with_an_installed_config(stranger, tmp_path):
    model = build_inference_model(ROOT / 'configs' / CLASSIFIER)
    randomise_weights(model)
    torch.save(model.model.state_dict(), tmp_path / 'trained.pth')
    output = run(stranger, '-m', 'repvit_mm', 'fuse', f'configs/{CLASSIFIER}', 'trained.pth', 'fused.pth',
                 cwd=tmp_path)
    assert 'largest difference' in output
    assert sorted(os.listdir(tmp_path)) == ['fused.pth', 'trained.pth']
    fused = torch.load(tmp_path / 'fused.pth', weights_only=True)
    assert 'backbone.stem.conv1.bias' in fused.get('state_dict', fused)


@pytest.mark.slow
def test_train_with_an_installed_config(stranger, tmp_path):
    write_classification(tmp_path / 'shapes', size=64, train=16, val=8, quiet=True)
    run(stranger, '-m', 'repvit_mm', 'train', 'repvit_mm::quickstart/classifier_repvit_m0_6_shapes.py', '--data-root',
        'shapes', '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', cwd=tmp_path)
    assert (tmp_path / 'work_dirs' / 'classifier_repvit_m0_6_shapes' / 'epoch_1.pth').is_file()


# The doctor

@pytest.mark.slow
def test_doctor_of_a_whole_environment(stranger, tmp_path):
    output = run(stranger, '-m', 'repvit_mm', 'doctor', '--json', cwd=tmp_path)
    report = json.loads(output)
    assert report['trains'] == ['mmdet', 'mmseg', 'mmpretrain']
    findings = {finding['name']: finding for finding in report['findings']}
    needed = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet', 'mmseg', 'mmpretrain', 'RepViT', 'stack')
    assert [name for name in needed if not findings[name]['works']] == []
    assert findings['torch']['found'] == torch.__version__.partition('+')[0]
    assert re.match("compiled, for |torchvision's, for .*: .*nms.*roi_align", findings['mmcv.ops']['found'])


def test_doctor_without_anything(bare, tmp_path):
    result = attempt(bare, '-m', 'repvit_mm', 'doctor', cwd=tmp_path)
    assert result.returncode == 1 and not result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1].startswith('RepViT cannot be trained here: ')
    for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'onnx', 'segment_anything'):
        assert any(line.split()[:3] == ['✗', name, 'missing;'] for line in lines), name
    # The versions are those of the wheel's extras; torch comes before what is built with it.
    commands = [line for line in lines if line.startswith('pip ')]
    assert commands[0].startswith('pip install "torch>=2.1" torchvision ')
    assert commands[1].startswith('pip install "onedl-mmengine>=')
    assert commands[2].startswith('pip install "setuptools<81" && MMCV_WITH_OPS=0 pip install ')
    assert 'MMCV_WITH_OPS=1' not in result.stdout  # torchvision has the operators
    assert sum('"repvit-mm[export]"' in command for command in commands) == 1


def installed_distributions(monkeypatch, *names):
    monkeypatch.setattr(doctor, 'installed_version', lambda name: '1.0' if name in names else None)


@pytest.mark.parametrize(('names', 'stack', 'works'), [
    (('onedl-mmengine', 'onedl-mmcv'), 0, True),
    (('mmengine', 'mmcv', 'mmdet'), 1, True),
    (('onedl-mmengine', 'onedl-mmcv', 'mmengine'), 0, False),
    ((), 0, False),
])
def test_stack(monkeypatch, names, stack, works):
    installed_distributions(monkeypatch, *names)
    found, finding = doctor.find_stack()
    assert (found, finding.works) == (stack, works)
    if names and not works:
        assert finding.command.startswith('pip uninstall -y onedl-mmengine onedl-mmcv mmengine')


@pytest.mark.parametrize(('error', 'found', 'command'), [
    (ModuleNotFoundError(name='mmseg'), 'missing', 'pip install --no-build-isolation '),
    (ModuleNotFoundError(name='ftfy'), 'needs ftfy', 'pip install ftfy'),
    (RuntimeError('operator torchvision::nms does not exist'), 'needs torchvision', ''),
    (ImportError('undefined symbol: _ZN3c10\nmore'), 'cannot be imported: undefined symbol: _ZN3c10',
     'pip install --no-build-isolation '),
])
@pytest.mark.parametrize('stack', [0, 1])
def test_what_is_wrong_with_a_toolbox(monkeypatch, error, found, command, stack):
    monkeypatch.setattr(doctor, 'import_error', lambda module: error)
    finding = doctor.check(doctor.Piece('mmseg.models', 'segmentation'), stack)
    assert (finding.name, finding.found, finding.works) == ('mmseg', found, False)
    assert finding.command.startswith(command) and bool(finding.command) == bool(command)
    if command.endswith(' '):
        assert ('onedl-mmsegmentation' in finding.command) == (stack == 0)


def test_torchvision_for_another_torch(monkeypatch):
    monkeypatch.setattr(doctor, 'import_error', lambda module: RuntimeError('operator torchvision::nms does not exist'))
    monkeypatch.setattr(doctor, 'torchvision_problem', lambda: ('torchvision 0.1 needs torch 0.2', 'pip install both'))
    finding = doctor.check(doctor.Piece('torchvision', 'the toolboxes'), 0)
    assert (finding.found, finding.command) == ('torchvision 0.1 needs torch 0.2', 'pip install both')


def torch_that(cuda, available):
    return SimpleNamespace(version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 2, get_device_name=lambda i: f'GPU {i}'),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)))


@pytest.mark.parametrize(('cuda', 'available', 'driver', 'works', 'found'), [
    ('12.8', True, True, True, 'GPU 0, GPU 1; CUDA 12.8'),
    ('12.8', False, False, True, 'none: '),
    ('12.8', False, True, False, 'there is one, but torch is built for CUDA 12.8, '),
    (None, False, True, False, 'there is one, but this torch is built for the CPU only'),
])
def test_gpu(monkeypatch, cuda, available, driver, works, found):
    monkeypatch.setattr('shutil.which', lambda name: '/bin/nvidia-smi' if driver else None)
    finding = doctor.find_gpu(torch_that(cuda, available))
    assert finding.works is works and finding.found.startswith(found)


@pytest.mark.parametrize(('provided', 'cuda', 'gpu', 'found', 'command'), [
    (True, '12.8', True, "torchvision's, for CUDA 12.8 and the CPU: nms, roi_align", ''),
    (True, 'not available', False, "torchvision's, for the CPU only: nms, roi_align", ''),
    (True, 'not available', True, "torchvision's, for the CPU only: ", 'pip install --force-reinstall torch torchv'),
    (False, '12.8', True, 'compiled, for CUDA 12.8 and the CPU', ''),
    (False, 'not available', False, 'compiled, for the CPU only', ''),
    (False, 'not available', True, 'compiled, for the CPU only', 'pip install "setuptools<81" && MMCV_WITH_OPS=0 ')])
def test_operators(monkeypatch, provided, cuda, gpu, found, command):
    monkeypatch.setattr(doctor, 'is_provided', lambda: provided)
    monkeypatch.setattr(doctor, 'find_compiled', lambda path: None)
    monkeypatch.setitem(sys.modules, 'mmcv', SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, 'mmcv.ops', SimpleNamespace(get_compiling_cuda_version=lambda: cuda))
    monkeypatch.setitem(sys.modules, 'mmcv._ext', SimpleNamespace(
        __all__=['roi_align_forward', 'nms', 'roi_align_backward']))
    finding = doctor.check_operators(torch_that('12.8', gpu), 0)
    assert finding.found.startswith(found) and finding.command.startswith(command)
    assert finding.works is not bool(command) and bool(finding.command) is bool(command)
    monkeypatch.setattr(doctor, 'find_compiled', lambda path: 'one that does not load')
    assert ('cannot be loaded' in doctor.check_operators(torch_that('12.8', gpu), 0).found) is provided


def test_broken_torch_is_a_finding():
    torch_that_fails = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: 1 / 0))
    finding = doctor.try_backbone(torch_that_fails)
    assert not finding.works and finding.found == 'fails: division by zero'
