"""Makes the virtual environment that the Makefile's targets run in, or brings it up to date.

It holds the versions of a file of requirements, mmcv with its compiled operators, and this clone as an editable
package. Only what changed since the last time is done again, and nothing when nothing did. This runs on the
system's Python before anything is installed, so it and its two modules use the standard library alone.
"""
import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import mmcv_wheel
from progress import SetupError, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Stack of toolboxes -> its pins. The first one is what this project is developed with.
STACKS = {'onedl': ROOT / 'requirements.txt', 'upstream': ROOT / 'requirements-upstream.txt'}
SCRIPTS = [HERE / name for name in ('setup_env.py', 'mmcv_wheel.py', 'progress.py')]
#: Stack -> the Pythons that it has wheels for.
PYTHONS = {'onedl': ('3.12', '3.11', '3.10'), 'upstream': ('3.11', '3.10')}
PYTHON = f'{sys.version_info[0]}.{sys.version_info[1]}'
#: What mmcv's sdist needs around it to be built; the other packages can come later.
BUILD_PACKAGES = ('setuptools', 'ninja', 'psutil', 'packaging', 'numpy', 'torch', 'torchvision')
#: Free space for a set-up from nothing: the environment (8), the downloads (4), and pip's cache of them.
NEEDED_GB = 15


def read_pins(stack):
    """Return name -> version of the pins that are the same for every Python."""
    lines = (line.strip() for line in STACKS[stack].read_text().splitlines())
    return dict(line.split('==') for line in lines if line and line[0] != '#' and ';' not in line)


def digest(*paths):
    """Return a short hash of the contents of some files."""
    return hashlib.sha256(b'\0'.join(path.read_bytes() for path in paths)).hexdigest()[:12]


def wanted_stamp(stack, pins):
    """Return step -> key of an environment that needs nothing."""
    startup = sorted(HERE.glob('repvit_mm_startup.*'))
    return {
        'python': PYTHON,
        'mmcv': mmcv_wheel.key(pins),
        'mmcv_wheels': os.environ.get('MMCV_WHEELS', ''),
        'packages': digest(STACKS[stack], *SCRIPTS),
        'clone': f'{ROOT} {digest(ROOT / "setup.py", ROOT / "pyproject.toml", *startup)}',
    }


class Stamp:
    """What an environment was made from: step -> key, in a file inside it, kept after each step."""

    def __init__(self, venv):
        self.path = venv / 'repvit-mm-setup.json'
        try:
            self.keys = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.keys = {}

    def fits(self, wanted, *steps):
        return all(self.keys.get(step) == wanted[step] for step in steps or wanted)

    def update(self, wanted, *steps):
        self.keys.update((step, wanted[step]) for step in steps)
        beside = self.path.with_suffix('.new')
        beside.write_text(json.dumps(self.keys, indent=2) + '\n')
        os.replace(beside, self.path)


def check_python(stack):
    """Raise SetupError where this Python is too old, too new, or lacks the module that makes environments."""
    if PYTHON not in PYTHONS[stack]:
        found = next((f'python{version}' for version in PYTHONS[stack] if shutil.which(f'python{version}')), None)
        hint = f'run make with PYTHON={found}' if found else 'install one, run make with PYTHON=/path/to/it'
        *others, last = reversed(PYTHONS[stack])
        raise SetupError(f'{sys.executable} is Python {PYTHON}; {", ".join(others)} or {last} is needed: {hint}')
    if not (importlib.util.find_spec('venv') and importlib.util.find_spec('ensurepip')):
        raise SetupError(f'{sys.executable} cannot make virtual environments: '
                         f'apt-get install python{PYTHON}-venv')


def check_place(venv, stamp):
    """Raise SetupError where the environment would land on something that is not ours, or has no room."""
    config = venv / 'pyvenv.cfg'
    if config.exists():
        if not stamp.keys and f'version = {PYTHON}.' not in config.read_text():
            raise SetupError(f'VENV={venv} is an environment of another Python than {sys.executable} and was '
                             'not made here: choose another VENV=, or the PYTHON= that fits')
    elif venv.exists() and (not venv.is_dir() or any(venv.iterdir())):
        raise SetupError(f'VENV={venv} exists and is no virtual environment: choose another VENV=')
    if not list(venv.glob('lib/*/site-packages/torch/version.py')):
        place = next(path for path in (venv, *venv.parents) if path.exists())
        free = shutil.disk_usage(place).free / 1e9
        if free < NEEDED_GB:
            raise SetupError(f'{place} has {free:.1f} GB free, and the environment takes up to {NEEDED_GB}: '
                             'free some space, or choose another place with VENV=')


@contextlib.contextmanager
def locked(venv):
    """Keep a second set-up of the same environment waiting."""
    name = hashlib.sha256(str(venv).encode()).hexdigest()[:12]
    with open(Path(tempfile.gettempdir()) / f'repvit-mm-{os.getuid()}-{name}.lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting for another set-up of {venv}', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_venv(venv, stamp, wanted):
    """Create the environment; one that this script made with another Python is replaced."""
    if stamp.keys or not (venv / 'pyvenv.cfg').exists():
        with tempfile.NamedTemporaryFile(suffix='.log') as log:
            run([sys.executable, '-m', 'venv', '--clear', venv], f'{venv} with Python {PYTHON}', log.name)
        stamp.keys.clear()
    stamp.update(wanted, 'python')


def install_packages(venv, requirements, pins, stamp, wanted):
    """Install the pinned versions, mmcv's operators among them."""
    python, log = venv / 'bin' / 'python', venv / 'setup.log'
    pip = [python, '-m', 'pip', 'install']
    run([*pip, '-c', requirements, 'pip'], 'pip', log)
    with tempfile.TemporaryDirectory() as folder:
        wheel, new_mmcv = None, not stamp.fits(wanted, 'mmcv', 'mmcv_wheels')
        if new_mmcv and wanted['mmcv_wheels']:
            wheel = mmcv_wheel.given(python, pins, wanted['mmcv_wheels'], folder, log)
        run([*pip, '-c', requirements, *BUILD_PACKAGES], f'torch {pins["torch"]}, the largest download', log)
        if new_mmcv:
            wheel = wheel or mmcv_wheel.cached(pins) or mmcv_wheel.build(python, pins, log)
            run([*pip, '--no-deps', '--force-reinstall', wheel], f'mmcv from {wheel}', log)
            stamp.update(wanted, 'mmcv', 'mmcv_wheels')
    run([*pip, '--no-build-isolation', '-r', requirements], 'the other packages', log)
    # The toolboxes ask for both OpenCVs, which share a folder. The one without windows has to be written
    # last: the other one cannot be imported on a machine without libGL.
    run([*pip, '--no-deps', '--force-reinstall', f'opencv-python-headless=={pins["opencv-python-headless"]}'],
        'OpenCV without windows', log)
    run([python, '-c', 'import cv2, mmcv.ops, mmdet, mmseg, mmpretrain'], 'first import', log)
    stamp.update(wanted, 'packages')


def install_clone(venv, stamp, wanted):
    """Install this clone as an editable package, and the start-up hook, which such an install leaves out."""
    python, log = venv / 'bin' / 'python', venv / 'setup.log'
    pip = [python, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation']
    run([*pip, '-e', ROOT], f'{ROOT} itself', log)
    site_packages, = venv.glob('lib/python*/site-packages')
    for path in HERE.glob('repvit_mm_startup.*'):
        shutil.copy(path, site_packages)
    stamp.update(wanted, 'clone')


def set_up(venv, stack):
    """Bring an environment up to date. Returns whether there was anything to do."""
    stamp, pins = Stamp(venv), read_pins(stack)
    wanted = wanted_stamp(stack, pins)
    # Without a wish, the operators that are there will do, wherever they came from.
    wanted['mmcv_wheels'] = wanted['mmcv_wheels'] or stamp.keys.get('mmcv_wheels', '')
    if stamp.fits(wanted):
        return False
    check_python(stack)
    check_place(venv, stamp)
    if not stamp.fits(wanted, 'mmcv') and not wanted['mmcv_wheels'] and not mmcv_wheel.cached(pins):
        mmcv_wheel.check_compiler()
    if not stamp.fits(wanted, 'python'):
        make_venv(venv, stamp, wanted)
    if not stamp.fits(wanted, 'packages', 'mmcv', 'mmcv_wheels'):
        install_packages(venv, STACKS[stack], pins, stamp, wanted)
    if not stamp.fits(wanted, 'clone'):
        install_clone(venv, stamp, wanted)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where the environment is or goes')
    parser.add_argument('--stack', choices=list(STACKS), default='onedl',
                        help='the maintained forks of the toolboxes (default), or upstream OpenMMLab')
    parser.add_argument('--print-key', action='store_true', help='print a name for these pins and end')
    args = parser.parse_args()
    if args.print_key:
        print(f'py{PYTHON}-{digest(STACKS[args.stack])}')
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    venv, started = args.venv.absolute(), time.monotonic()
    try:
        with locked(venv):
            if set_up(venv, args.stack):
                print(f'{venv} is ready: {time.monotonic() - started:.0f} s; to work in it: source {venv}/bin/activate',
                      flush=True)
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted: the next run goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
