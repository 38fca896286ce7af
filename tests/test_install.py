"""The set-up: the pins, and what it says when it cannot go on."""
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ['3.10', '3.11', '3.12', '3.13']
#: How the names of packages start that CPU=1 leaves out.
CUDA = ('cuda', 'nvidia', 'triton')


def pins():
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    return [Requirement(line) for line in lines if line[0] not in '#-']


def pinned(**environment):
    """Name -> version for a Python; several of one name are a mistake in the lock."""
    found = [(pin.name, str(pin.specifier)[2:]) for pin in pins() if pin.marker is None or
             pin.marker.evaluate(environment)]
    assert len(found) == len(dict(found))
    return dict(found)


def test_every_pin_is_exact():
    assert [str(pin) for pin in pins() if not re.fullmatch(r'==[\w.]+', str(pin.specifier))] == []


@pytest.mark.parametrize('python', PYTHONS)
def test_requirements_are_pinned_for_each_python(python):
    names = pinned(python_version=python, python_full_version=f'{python}.0', sys_platform='linux')
    assert {'torch', 'onedl-mmcv', 'numpy', 'timm', 'coremltools', 'pytest', 'opencv-python-headless', 'uv'} <= {*names}
    assert 'opencv-python' not in names  # it would overwrite the files of the other one


@pytest.mark.slow
@pytest.mark.parametrize(('file', 'python'), [('litert', version) for version in PYTHONS[1:]]
                         + [(name, '3.12') for name in ('sam-demo', 'docs')])
def test_pip_installs_pinned_versions_for_some_targets(file, python, tmp_path):
    """By its own rules, which refuse releases for other Pythons; nothing is installed."""
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--no-deps', '--ignore-installed',
                    '--only-binary', ':all:', '--python-version', python, '--target', tmp_path, '-r',
                    ROOT / f'requirements-{file}.txt'], check=True, timeout=300)


def test_environment_has_the_pinned_versions():
    wanted = pinned()
    if importlib.metadata.version('torch').endswith('+cpu'):  # made with CPU=1
        wanted = {name: version for name, version in wanted.items() if not name.startswith(CUDA)}
    assert {name: importlib.metadata.version(name).removesuffix('+cpu') for name in wanted} == wanted


def set_up(folder, python='python3', **env):
    return subprocess.run(['sh', ROOT / 'install' / 'environment.sh', folder, python, '--quiet', '-r', 'nothing.txt'],
                          capture_output=True, text=True, cwd=ROOT, **env)


def fake_python(path, version, modules=True):
    """A script that answers as another Python's interpreter would, and makes no environment."""
    major, minor = version.split('.')
    path.write_text(f"""#!/bin/sh
case "$*" in
--version) echo Python {version}.0 ;;
*version_info*) '{sys.executable}' -c 'import sys; sys.version_info = ({major}, {minor}); exec(sys.argv[1])' "$2" ;;
*) exit {0 if modules else 1} ;;
esac
""")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize('version', ['3.9', '3.14'])
def test_a_python_that_the_packages_are_not_for(tmp_path, version):
    python = fake_python(tmp_path / 'python', version)
    result = set_up(tmp_path / 'venv', python)
    assert result.returncode == 1
    assert result.stderr == f'error: {python} is Python {version}.0, and 3.10 to 3.13 is needed: name another with ' \
                            'PYTHON=, and a new VENV=\n'
    assert not (tmp_path / 'venv').exists()


@pytest.mark.parametrize(('name', 'content', 'python', 'error'), [
    ('venv', None, 'no-such-python', 'there is no no-such-python: install Python 3.10 to 3.13, or name yours'),
    ('full', 'of something else', sys.executable, 'is not a virtual environment: remove it, or choose another VENV='),
    ('full/file/venv', 'of something else', sys.executable, 'cannot be made: choose another VENV='),
])
def test_a_place_or_python_that_no_environment_can_be_made_of(tmp_path, name, content, python, error):
    if content is not None:
        (tmp_path / 'full').mkdir()
        (tmp_path / 'full' / 'file').write_text(content)
    result = set_up(tmp_path / name, python)
    assert result.returncode == 1 and error in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith('error: ')


def test_a_python_without_venv_names_the_package_that_has_it(tmp_path):
    result = set_up(tmp_path / 'venv', fake_python(tmp_path / 'python', '3.11', modules=False))
    assert result.returncode == 1 and result.stderr.endswith('environments: apt-get install python3-venv\n')


def fake_environment(venv, install):
    """An environment whose uv runs ``install`` in the shell."""
    (venv / 'bin').mkdir(parents=True)
    (venv / 'bin' / 'python').symlink_to(sys.executable)
    uv = pinned()['uv']
    (venv / 'bin' / 'uv').write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo uv {uv} || {{ {install}; }}\n')
    (venv / 'bin' / 'uv').chmod(0o755)
    return venv


@pytest.mark.parametrize('cpu', [False, True])
def test_without_a_gpu_nothing_of_cuda_is_installed(tmp_path, cpu):
    venv = fake_environment(tmp_path / 'venv', f"echo \"$@\" > '{tmp_path}/arguments'; cat > '{tmp_path}/pins'")
    subprocess.run(['make', 'setup', f'VENV={venv}', *['CPU=1'] * cpu], cwd=ROOT, check=True)
    arguments, lines = (tmp_path / 'arguments').read_text(), (tmp_path / 'pins').read_text().splitlines()
    assert arguments == f'pip install --compile-bytecode {"--torch-backend cpu " * cpu}--no-deps -r -\n'
    assert lines[-1] == '-e .'
    assert [Requirement(line) for line in lines[:-1] if line[0] != '#'] == [
        pin for pin in pins() if not (cpu and pin.name.startswith(CUDA))]


def test_packages_that_cannot_be_installed_fail_the_set_up(tmp_path):
    """As they are not there: the last line says what to do, after uv's own reason."""
    venv = fake_environment(tmp_path / 'venv', 'echo no network >&2; exit 2')
    result = set_up(venv)
    assert result.returncode == 1
    assert result.stderr.startswith('no network\nerror: VENV=') and 'run make again' in result.stderr
