"""The installed package, for every test that needs it as a user has it."""
import signal
import sysconfig

import installed
import pytest

# A shell starts what runs in its background with Ctrl-C ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """The wheel of this clone."""
    return installed.build_wheel(tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='session')
def stranger(wheel, tmp_path_factory):
    """The Python of an environment that has the toolboxes of this one, and the wheel, but not this clone."""
    return installed.make_environment(tmp_path_factory.mktemp('environment'), wheel, sysconfig.get_path('purelib'))
