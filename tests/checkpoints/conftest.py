import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """What mmengine's logger says, which does not pass it on by itself."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
