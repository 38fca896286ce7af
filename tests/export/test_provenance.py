import pytest
from inference_models import CONFIGS
from mmengine.config import Config

from repvit_mm.export.provenance import describe
from repvit_mm.inference import build_inference_model


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


@pytest.mark.parametrize('content', ['Models: !!python/object/apply:os.mkdir [made]', 'Models: 3', '- 1', '{', ''])
def test_a_metafile_of_something_else_is_passed_over_and_runs_no_code(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(CONFIGS / 'classification/repvit_m0_6_distill_300e.py')
    config.dump(tmp_path / 'repvit_m0_6_distill_300e.py')
    (tmp_path / 'metafile.yml').write_text(content)
    model = build_inference_model(tmp_path / 'repvit_m0_6_distill_300e.py')
    model.checkpoint = 'repvit://m0_6_distill_300e'
    assert 'published_results' not in describe(model)
    assert not (tmp_path / 'made').exists()
