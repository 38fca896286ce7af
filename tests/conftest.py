"""The installed package, for every test that needs it as a user has it; tests that only run when asked for."""
import os
import signal
import sysconfig
import tempfile
from pathlib import Path

import installed
import pytest
from filelock import FileLock

# A shell starts what runs in its background with Ctrl-C ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: Marks of tests that run only when asked for.
OPTIONAL = ('trust', 'peers')


def pytest_addoption(parser):
    parser.addoption('--device', choices=['cuda', 'cpu'], help='run the tests marked gpu, on this device')
    for mark in OPTIONAL:
        parser.addoption(f'--{mark}', action='store_true', help=f'run the tests marked {mark}, too')


def pytest_configure(config):
    if config.getoption('--device') == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    elif config.getoption('--device') == 'cuda':
        import torch
        if not torch.cuda.is_available():
            raise pytest.UsageError('torch can use no GPU here; `make check-gpu DEVICE=cpu` rehearses on a CPU')


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--device'):
        acceptance = [item for item in items if item.get_closest_marker('gpu')]
        items[:] = [item for item in items if item not in acceptance]
        config.hook.pytest_deselected(items=acceptance)
    for mark in OPTIONAL:
        if not config.getoption(f'--{mark}'):
            long = [item for item in items if item.get_closest_marker(mark)]
            items[:] = [item for item in items if item not in long]
            config.hook.pytest_deselected(items=long)
    # Files with slow tests first, so that no worker is left alone with one of them at the end.
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope='session')
def built_once(tmp_path_factory):
    """Gives the path that ``build(folder)`` returns; of several workers of pytest-xdist, the first one builds."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root

    def get(name, build):
        path = root / f'{name}.path'
        with FileLock(f'{path}.lock'):
            if not path.exists():
                path.write_text(str(build(Path(tempfile.mkdtemp(prefix=f'{name}-', dir=root)))))
        return Path(path.read_text())
    return get


@pytest.fixture(scope='session')
def wheel(built_once):
    """The wheel of this clone."""
    return built_once('wheel', installed.build_wheel)


@pytest.fixture(scope='session')
def stranger(built_once, wheel):
    """The Python of an environment that has the toolboxes of this one, and the wheel, but not this clone."""
    return built_once('environment', lambda folder: installed.make_environment(
        folder, wheel, sysconfig.get_path('purelib')))
