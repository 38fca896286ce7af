import pytest
from inference_models import CONFIGS
from mmengine.config import Config

from repvit_mm.export.provenance import describe
from repvit_mm.models.inference import build_inference_model


@pytest.fixture(scope='module')
def model():
    return build_inference_model(CONFIGS / 'classification/repvit_m0_6_distill_300e.py')


@pytest.mark.parametrize('checkpoint', ['repvit://m0_6_distill_300e', 'downloads/repvit_m0_6_distill_300e.pth'])
def test_released_weights_come_with_their_published_accuracy(model, checkpoint):
    model.checkpoint = checkpoint
    assert describe(model)['published_results'] == {'Top 1 Accuracy, ImageNet-1k': 74.1}


@pytest.mark.parametrize('checkpoint', [None, 'work_dirs/mine/best.pth', 'repvit://m0_9_distill_300e'])
def test_other_weights_come_without(model, checkpoint):
    model.checkpoint = checkpoint
    assert 'published_results' not in describe(model)


def test_a_config_of_that_name_elsewhere_comes_without(tmp_path):
    path = tmp_path / 'repvit_m0_6_distill_300e.py'
    Config.fromfile(CONFIGS / f'classification/{path.name}').dump(path)
    model = build_inference_model(path)
    model.checkpoint = 'repvit://m0_6_distill_300e'
    assert 'published_results' not in describe(model)
