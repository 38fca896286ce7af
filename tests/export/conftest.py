from functools import cache

import pytest
from inference_models import tiny_model


def once_for_each(build, tmp_path_factory):
    """Name -> what ``build`` makes in a folder of its own, once."""
    return cache(lambda name: build(tmp_path_factory.mktemp(name), name))


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """Gives the tiny model of a task; each is built once."""
    return once_for_each(tiny_model, tmp_path_factory)


@pytest.fixture(scope='session')
def detector(tmp_path_factory):
    """Gives the tiny detector of a kind; each is built once."""
    from small_detectors import spread_detector
    return once_for_each(spread_detector, tmp_path_factory)
