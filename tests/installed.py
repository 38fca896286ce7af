"""The wheel and the sdist of this clone, and environments that have a wheel and not the clone."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What a wheel is built from, and what runs leave behind.
SOURCES = ('LICENSE', 'MANIFEST.in', 'README.md', 'configs', 'model-index.yml', 'pyproject.toml',
           'repvit_mm', 'repvit_mm_cli.py', 'setup.py', 'tools')
LEFT_BEHIND = ('build', 'data', 'dist', 'outputs', 'work_dirs')


def run(*command, **kwargs):
    """Run a command, show what it printed if it fails, and return what it wrote to stdout."""
    result = attempt(*command, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def attempt(*command, **kwargs):
    """Run a command that may fail, without this clone on its path."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, **kwargs)


def copy_sources(folder, names):
    """Copy files and folders of this clone: a build leaves its own beside the sources. Returns the copy."""
    source = folder / 'source'
    source.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True,
                            ignore=shutil.ignore_patterns('__pycache__', 'node_modules'))
        else:
            shutil.copy(ROOT / name, source)
    return source


def build_wheel(folder, source=None):
    """Build the wheel of ``source``, a folder or an sdist (default: this clone), into ``folder``."""
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index', '--no-build-isolation', '--no-cache-dir',
        '--wheel-dir', folder, source or copy_sources(folder, SOURCES))
    path, = folder.glob('*.whl')
    return path


def build_sdist(folder):
    """Build the sdist of this clone into ``folder``, as ``python -m build`` does."""
    names = [path.name for path in ROOT.iterdir()
             if path.name[0] != '.' and path.name not in LEFT_BEHIND and path.suffix not in ('.egg-info', '.log')]
    run(sys.executable, '-c', 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])',
        folder, cwd=copy_sources(folder, names))
    path, = folder.glob('*.tar.gz')
    return path


def make_environment(folder, wheel, *paths):
    """Make an environment of the wheel and of what lies in ``paths``. Returns its Python."""
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    site_packages, = folder.glob('lib/python*/site-packages')
    # As paths, not as sites: the .pth files in there, an editable install of this clone among them, are not read.
    (site_packages / 'toolboxes.pth').write_text(''.join(f'{path}\n' for path in paths))
    python = folder / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel)
    return python
