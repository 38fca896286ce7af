import pytest
from inference_models import tiny_model


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """Gives the tiny model of a task; each is built once."""
    built = {}

    def get(task):
        if task not in built:
            built[task] = tiny_model(tmp_path_factory.mktemp(task), task)
        return built[task]
    return get


@pytest.fixture(scope='session')
def detector(tmp_path_factory):
    """Gives the tiny detector of a kind; each is built once."""
    from test_detectors import spread_detector
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = spread_detector(tmp_path_factory.mktemp(kind), kind)
        return built[kind]
    return get
