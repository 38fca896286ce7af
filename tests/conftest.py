"""The installed package, for every test that needs it as a user has it; the device of the tests marked `gpu`."""
import os
import signal
import sysconfig

import installed
import pytest

# A shell starts what runs in its background with Ctrl-C ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption('--device', choices=['cuda', 'cpu'], help='run the tests marked gpu, on this device')


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


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """The wheel of this clone."""
    return installed.build_wheel(tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='session')
def stranger(wheel, tmp_path_factory):
    """The Python of an environment that has the toolboxes of this one, and the wheel, but not this clone."""
    return installed.make_environment(tmp_path_factory.mktemp('environment'), wheel, sysconfig.get_path('purelib'))
