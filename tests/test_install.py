"""The set-up: what it says when it cannot go on, what it does again, and where mmcv's wheel comes from."""
import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
INSTALL = ROOT / 'install'
PINS = {'torch': '2.8.0', 'onedl-mmcv': '2.3.6', 'opencv-python-headless': '4.12.0.88'}


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """The set-up's three modules, imported as its script does, with a cache of their own."""
    monkeypatch.syspath_prepend(INSTALL)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('MMCV_WHEELS', 'MAX_JOBS', 'CUDA_HOME', 'CUDA_PATH', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'CXX'):
        monkeypatch.delenv(name, raising=False)
    for name in ('setup_env', 'mmcv_wheel', 'progress'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import mmcv_wheel
    import progress
    import setup_env
    yield namedtuple('Modules', 'setup_env mmcv_wheel progress')(setup_env, mmcv_wheel, progress)
    for name in ('setup_env', 'mmcv_wheel', 'progress'):
        sys.modules.pop(name, None)


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)


# The pins

FILES = ['requirements.txt', 'requirements-upstream.txt']


def requirements(file='requirements.txt'):
    lines = (line.strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


@pytest.mark.parametrize('file', FILES)
def test_every_pin_is_exact(file):
    assert [str(r) for r in requirements(file) if not re.fullmatch(r'==[\w.]+', str(r.specifier))] == []


@pytest.mark.parametrize(('file', 'python'), [*((FILES[0], python) for python in ('3.10', '3.11', '3.12')),
                                              *((FILES[1], python) for python in ('3.10', '3.11'))])
def test_every_package_is_pinned_once_for_each_python(file, python):
    names = [r.name for r in requirements(file) if r.marker is None or r.marker.evaluate({'python_version': python})]
    assert len(names) == len(set(names))
    assert {'torch', 'onedl-mmcv' if file == FILES[0] else 'mmcv', 'numpy', 'timm', 'pytest'} <= set(names)


def test_environment_has_the_pinned_versions():
    wanted = {r.name: str(r.specifier)[2:] for r in requirements() if r.marker is None or r.marker.evaluate()}
    # pip and the build tools matter to a set-up alone.
    found = {name: importlib.metadata.version(name) for name in wanted if name not in ('pip', 'setuptools', 'ninja')}
    assert found == {name: wanted[name] for name in found}


# What the set-up says

@pytest.mark.parametrize('name', ['setup_env.py', 'mmcv_wheel.py', 'progress.py'])
def test_an_old_python_can_read_the_scripts(name):
    """Else it would print a SyntaxError instead of the line that says which Python is needed."""
    ast.parse((INSTALL / name).read_text(), feature_version=(3, 6))


def test_unfit_python_is_named_with_one_that_fits(modules, monkeypatch, tmp_path):
    script(tmp_path / 'bin' / 'python3.10', '')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    monkeypatch.setattr(modules.setup_env, 'PYTHON', '3.14')
    with pytest.raises(modules.progress.SetupError, match=r'is Python 3\.14; 3\.10, .* make with PYTHON=python3\.10$'):
        modules.setup_env.check_python('onedl')


def test_upstream_has_no_torch_for_the_newest_python(modules, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(modules.setup_env, 'PYTHON', '3.12')
    with pytest.raises(modules.progress.SetupError, match=r'is Python 3\.12; 3\.10 or 3\.11 is needed: install one'):
        modules.setup_env.check_python('upstream')


@pytest.mark.parametrize(('stack', 'mmcv'), [('onedl', 'onedl-mmcv'), ('upstream', 'mmcv')])
def test_each_stack_builds_its_own_mmcv(modules, monkeypatch, tmp_path, stack, mmcv):
    monkeypatch.setenv('PATH', str(tmp_path))
    pins = modules.setup_env.read_pins(stack)
    assert modules.mmcv_wheel.name_of(pins) == mmcv
    assert modules.mmcv_wheel.key(pins).startswith(f'{mmcv}-{pins[mmcv]}-torch{pins["torch"]}-')


@pytest.mark.parametrize('missing', ['venv', 'ensurepip'])
def test_missing_venv_module(modules, monkeypatch, missing):
    find_spec = modules.setup_env.importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == missing else find_spec(name))
    with pytest.raises(modules.progress.SetupError, match=r'apt-get install python3\.\d+-venv'):
        modules.setup_env.check_python('onedl')


@pytest.mark.parametrize('free, fits', [(14.9e9, False), (15e9, True)])
def test_disk_space(modules, monkeypatch, tmp_path, free, fits):
    venv = tmp_path / 'not' / 'yet' / 'there'
    stamp = modules.setup_env.Stamp(venv)
    usage = namedtuple('usage', 'total used free')
    asked = []
    monkeypatch.setattr('shutil.disk_usage', lambda path: asked.append(path) or usage(1e12, 0, free))
    if fits:
        modules.setup_env.check_place(venv, stamp)
    else:
        with pytest.raises(modules.progress.SetupError, match=r'has 14\.9 GB free, .* up to 15: free some space'):
            modules.setup_env.check_place(venv, stamp)
    assert asked == [tmp_path]


def test_venv_is_no_environment(modules, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(modules.progress.SetupError, match='exists and is no virtual environment'):
        modules.setup_env.check_place(tmp_path, modules.setup_env.Stamp(tmp_path))


def test_venv_of_someone_else_with_another_python(modules, tmp_path):
    (tmp_path / 'pyvenv.cfg').write_text('home = /usr/bin\nversion = 3.8.10\n')
    with pytest.raises(modules.progress.SetupError, match='of another Python than .* was not made here'):
        modules.setup_env.check_place(tmp_path, modules.setup_env.Stamp(tmp_path))


def test_no_compiler(modules, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(modules.progress.SetupError, match=r'no C\+\+ compiler .* apt-get install g\+\+'):
        modules.mmcv_wheel.check_compiler()


def test_no_python_headers(modules, monkeypatch, tmp_path):
    script(tmp_path / 'g++', '')
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr('sysconfig.get_paths', lambda: {'include': str(tmp_path)})
    with pytest.raises(modules.progress.SetupError, match=r'headers .* apt-get install python3\.\d+-dev'):
        modules.mmcv_wheel.check_compiler()


@pytest.mark.parametrize('output, advice', [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n', 'the disk is full'),
    ('WARNING: Retrying (Retry(total=4)) after connection broken by NewConnectionError("...")\n'
     'ERROR: No matching distribution found for torch==2.8.0\n', 'the package index cannot be reached'),
    ('ERROR: No matching distribution found for torch==2.8.0\n', 'there is no torch==2.8.0 for this Python'),
    ('fatal error: Python.h: No such file or directory\n', 'apt-get install python3-dev'),
    ('g++: fatal error: Killed signal terminated program cc1plus\n', 'MAX_JOBS=1'),
    ('ImportError: /x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c10\n',
     'built for another torch'),
])
def test_known_failures_are_one_line(modules, output, advice):
    message = modules.progress.explain('a step', output, 'setup.log')
    assert advice in message
    assert message.startswith('a step: ')
    assert '\n' not in message


def test_unknown_failure_shows_the_end_of_the_output(modules):
    message = modules.progress.explain('a step', ''.join(f'line {n}\n' for n in range(100)), 'setup.log')
    assert message.splitlines()[0] == 'line 85'
    assert message.splitlines()[-1] == 'a step failed; the whole output is in setup.log'


def test_no_network(modules, tmp_path):
    command = [sys.executable, '-m', 'pip', 'download', '--isolated', '--retries', '1', '--no-deps', '--no-cache-dir',
               '--index-url', 'http://127.0.0.1:9/simple', '--dest', tmp_path, 'torch']
    with pytest.raises(modules.progress.SetupError, match='the package index cannot be reached'):
        modules.progress.run(command, 'torch', tmp_path / 'log')


def test_progress_shows_how_far_a_build_is(modules, capsys, tmp_path):
    lines = ['[1/98] c++ a.o\n', '[7/98] c++ b.o\n', 'a warning\n']
    assert modules.progress.progress_of(lines) == ', [7/98]'
    modules.progress.run(['sh', '-c', 'echo one; echo two >&2'], 'a step', tmp_path / 'log')
    assert re.fullmatch(r'  a step: \d s\n', capsys.readouterr().out)
    assert (tmp_path / 'log').read_text() == 'one\ntwo\n'


def test_interrupt_ends_what_the_command_started(modules, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(modules.progress, 'report', interrupt)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)  # so that it reports every second
    with pytest.raises(KeyboardInterrupt):
        modules.progress.run(['sh', '-c', 'sleep 1000 & echo $!; wait'], 'a step', tmp_path / 'log')
    child = int((tmp_path / 'log').read_text())
    assert child not in [p.pid for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]


# What the set-up does, and does again

@pytest.fixture
def steps(modules, monkeypatch, tmp_path):
    """Runs a set-up whose commands do nothing but leave what the real ones leave; returns what they were for."""
    pins = dict(PINS)
    wheel = modules.mmcv_wheel.cache() / modules.mmcv_wheel.key(pins) / 'onedl_mmcv-2.3.6-cp311.whl'
    done = []

    def run(command, what, log, env=None):
        done.append(' '.join(map(str, command)))
        if '--clear' in command:
            site_packages = command[-1] / 'lib' / 'python3' / 'site-packages'
            site_packages.mkdir(parents=True, exist_ok=True)
            (command[-1] / 'pyvenv.cfg').write_text(f'version = {modules.setup_env.PYTHON}.1\n')

    def build(python, pins, log):
        done.append('build mmcv')
        return wheel

    def set_up(**keys):
        wanted = {'python': '3.11', 'mmcv': 'a', 'mmcv_wheels': '', 'packages': 'b', 'clone': 'c', **keys}
        monkeypatch.setattr(modules.setup_env, 'wanted_stamp', lambda stack, pins: dict(wanted))
        done.clear()
        modules.setup_env.set_up(tmp_path / 'venv', 'onedl')
        return ['venv' if '--clear' in step else 'clone' if ' -e ' in step else
                re.sub(r'.* ', '', step) for step in done]

    usage = namedtuple('usage', 'free')
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage(1e12))
    monkeypatch.setattr(modules.setup_env, 'read_pins', lambda stack: pins)
    monkeypatch.setattr(modules.setup_env, 'run', run)
    monkeypatch.setattr(modules.mmcv_wheel, 'build', build)
    monkeypatch.setattr(modules.mmcv_wheel, 'run', run)
    monkeypatch.setattr(modules.mmcv_wheel, 'check_compiler', lambda: None)
    return set_up


PACKAGES = ['pip', 'torchvision', 'requirements.txt', 'opencv-python-headless==4.12.0.88', 'mmpretrain']


def last_parts(steps):
    return [Path(step).name for step in steps]


def test_setup_from_nothing_and_again(steps):
    mmcv = ['mmcv', 'onedl_mmcv-2.3.6-cp311.whl']
    assert last_parts(steps()) == ['venv', *PACKAGES[:2], *mmcv, *PACKAGES[2:], 'clone']
    assert steps() == []


@pytest.mark.parametrize('change, expected', [
    ({'clone': 'moved'}, ['clone']),
    ({'packages': 'a pin'}, PACKAGES),
    ({'mmcv': 'another torch'}, [*PACKAGES[:2], 'mmcv', 'onedl_mmcv-2.3.6-cp311.whl', *PACKAGES[2:]]),
    ({'python': '3.12'}, ['venv', *PACKAGES[:2], 'mmcv', 'onedl_mmcv-2.3.6-cp311.whl', *PACKAGES[2:], 'clone']),
])
def test_a_change_renews_what_depends_on_it(steps, change, expected):
    steps()
    assert last_parts(steps(**change)) == expected


def test_a_set_up_that_failed_goes_on_where_it_was(steps, modules, monkeypatch, tmp_path):
    monkeypatch.setattr(modules.mmcv_wheel, 'build', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        steps()
    stamp = json.loads((tmp_path / 'venv' / 'repvit-mm-setup.json').read_text())
    assert stamp == {'python': '3.11'}


def test_print_key_depends_on_the_pins_alone():
    key = subprocess.run([sys.executable, INSTALL / 'setup_env.py', '--print-key'], capture_output=True, text=True,
                         env={**os.environ, 'MMCV_WHEELS': '/elsewhere'}, check=True).stdout
    assert re.fullmatch(rf'py3\.{sys.version_info[1]}-[0-9a-f]{{12}}\n', key)


# mmcv's wheel

def test_wheels_are_built_for_the_cuda_of_torch(modules):
    assert torch.version.cuda is None or torch.version.cuda.split('.')[0] == modules.mmcv_wheel.TORCH_CUDA


def test_key_names_everything_the_binary_depends_on(modules, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    assert re.fullmatch(rf'onedl-mmcv-2\.3\.6-torch2\.8\.0-{tag}-\w+-\w+-cpu', modules.mmcv_wheel.key(PINS))


@pytest.mark.parametrize('nvcc, gpu, force, expected', [
    ('12.8', True, '', 'cuda12.8-8.0-9.0'),
    ('12.8', False, '1', 'cuda12.8'),
    ('12.8', False, '', 'cpu'),
    ('13.0', True, '', 'cpu'),
    (None, True, '', 'cpu'),
    (None, False, '1', 'cpu'),
])
def test_target(modules, monkeypatch, tmp_path, nvcc, gpu, force, expected):
    if nvcc:
        script(tmp_path / 'cuda' / 'bin' / 'nvcc', f'echo "Cuda compilation tools, release {nvcc}, V{nvcc}.93"')
    if gpu:
        script(tmp_path / 'bin' / 'nvidia-smi', 'echo 9.0; echo 8.0; echo 9.0')
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'cuda'))
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    monkeypatch.setenv('FORCE_CUDA', force)
    assert modules.mmcv_wheel.target() == expected


def fake_pip(path, then):
    """A Python whose `-m pip wheel --wheel-dir DIR` writes its arguments and variables to DIR/../call and ends."""
    script(path, 'for last in "$@"; do [ "$previous" = --wheel-dir ] && dir=$last; previous=$last; done\n'
                 f'{{ echo "$@"; env; }} > {path.parent}/call\n{then}')
    return path


def test_build_puts_a_whole_wheel_into_the_cache(modules, tmp_path):
    python = fake_pip(tmp_path / 'python', 'echo binary > "$dir/onedl_mmcv-2.3.6.whl"')
    assert modules.mmcv_wheel.cached(PINS) is None
    wheel = modules.mmcv_wheel.build(python, PINS, tmp_path / 'log')
    assert wheel == modules.mmcv_wheel.cached(PINS)
    assert wheel.read_text() == 'binary\n'
    assert os.listdir(wheel.parent) == [wheel.name]
    command, *variables = (tmp_path / 'call').read_text().splitlines()
    # pip's cache would hand out a wheel that was built for another torch.
    options = {'--no-cache-dir', '--no-build-isolation', '--no-binary=onedl-mmcv', 'onedl-mmcv==2.3.6'}
    assert options <= set(command.split())
    assert {'MMCV_WITH_OPS=1', 'CFLAGS=-O2 -g0'} <= set(variables)
    jobs, = (int(line.partition('=')[2]) for line in variables if line.startswith('MAX_JOBS='))
    assert 1 <= jobs <= os.cpu_count()


def test_failed_build_leaves_nothing_in_the_cache(modules, tmp_path):
    python = fake_pip(tmp_path / 'python', 'echo half > "$dir/onedl_mmcv-2.3.6.whl"; exit 1')
    with pytest.raises(modules.progress.SetupError):
        modules.mmcv_wheel.build(python, PINS, tmp_path / 'log')
    assert modules.mmcv_wheel.cached(PINS) is None
    assert [path for path in modules.mmcv_wheel.cache().rglob('*') if path.is_file()] == []


def test_wheel_from_a_folder_of_the_user(modules, tmp_path):
    """With pip itself: an empty wheel of mmcv in a folder is found, and its absence is said."""
    folder, wheels = tmp_path / 'folder', tmp_path / 'wheels'
    folder.mkdir()
    wheels.mkdir()
    with pytest.raises(modules.progress.SetupError, match='there is no onedl-mmcv==2.3.6 for this Python'):
        modules.mmcv_wheel.given(sys.executable, PINS, wheels, folder, tmp_path / 'log')
    info = 'onedl_mmcv-2.3.6.dist-info'
    with zipfile.ZipFile(wheels / 'onedl_mmcv-2.3.6-py3-none-any.whl', 'w') as archive:
        archive.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\nName: onedl-mmcv\nVersion: 2.3.6\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', '')
    wheel = modules.mmcv_wheel.given(sys.executable, PINS, wheels, folder, tmp_path / 'log')
    assert wheel == folder / 'onedl_mmcv-2.3.6-py3-none-any.whl'
