import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """Messages of mmengine's logger, which does not propagate them."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
