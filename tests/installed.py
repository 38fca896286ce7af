"""The wheel of this clone, and environments that have it and not the clone."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ('LICENSE', 'MANIFEST.in', 'README.md', 'configs', 'model-index.yml', 'pyproject.toml',
           'repvit_mm', 'repvit_mm_cli.py', 'setup.py', 'tools')


def run(*command, **kwargs):
    """Run a command, show what it printed if it fails, and return what it wrote to stdout."""
    result = attempt(*command, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def attempt(*command, **kwargs):
    """Run a command that may fail, without this clone on its path."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, **kwargs)


def build_wheel(folder):
    """Build the wheel into ``folder``, from a copy: a build leaves its folders beside the sources."""
    source = folder / 'source'
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, source)
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index', '--no-build-isolation', '--no-cache-dir',
        '--wheel-dir', folder, source)
    path, = folder.glob('*.whl')
    return path


def make_environment(folder, wheel, *paths):
    """Make an environment of the wheel and of what lies in ``paths``. Returns its Python."""
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    site_packages, = folder.glob('lib/python*/site-packages')
    # As paths, not as sites: the .pth files in there, an editable install of this clone among them, are not read.
    (site_packages / 'toolboxes.pth').write_text(''.join(f'{path}\n' for path in paths))
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', site_packages, wheel)
    return folder / 'bin' / 'python'
