import argparse

import pytest
import torch
from classifiers import classifier, timm_twin
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from oracles import relative_error

from repvit_mm import fuse
from repvit_mm.checkpoints import convert_state_dict, load_checkpoint


@pytest.fixture(params=['official', 'timm', 'repvit_mm'])
def published(request, tmp_path):
    """Writes a model in a published format."""
    def write(model):
        tensors = convert_state_dict(model.state_dict(), to=request.param)
        content = dict(model=tensors, args=argparse.Namespace(epochs=300)) if request.param == 'official' else tensors
        torch.save(content, tmp_path / 'published.pth')
        return tmp_path / 'published.pth'
    return write


@pytest.mark.parametrize('distillation', [False, True])
def test_a_published_classifier_is_loaded_whole_and_scores_as_in_timm(published, distillation):
    trained = classifier(distillation, seed=1).eval()
    images = torch.randn(3, 3, 64, 64)
    expected = timm_twin(trained)(images)
    model = classifier(distillation, seed=2).eval()
    report = load_checkpoint(model, published(trained))
    assert report.taken == report.total and not report.not_needed
    assert relative_error(model(images), expected) < 1e-5
    assert relative_error(fuse(model)(images), expected) < 1e-5


@pytest.mark.parametrize('distillation', [False, True])
@pytest.mark.parametrize('load', [load_checkpoint, mmengine_load_checkpoint])
def test_a_fused_classifier_is_loaded(tmp_path, load, distillation):
    trained = fuse(classifier(distillation, seed=1).eval())
    torch.save(trained.state_dict(), tmp_path / 'fused.pth')
    model = classifier(distillation, seed=2).eval()
    load(model, str(tmp_path / 'fused.pth'))
    images = torch.randn(2, 3, 64, 64)
    assert relative_error(model(images), trained(images)) < 1e-6 and not model.head.deploy
    assert all(torch.equal(ours, theirs) for ours, theirs in
               zip(fuse(model).state_dict().values(), trained.state_dict().values(), strict=True))
