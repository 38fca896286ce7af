import pytest
import torch
from classifiers import CLASSES, build, classifier, samples, timm_twin
from oracles import relative_error

from repvit_mm import fuse
from repvit_mm.errors import ConfigError
from repvit_mm.network.layers import BNLinear
from repvit_mm.training.classification import RepViTClsHead


def test_scores_of_the_layers_equal_timm_in_training():
    model = classifier().train()
    twin = timm_twin(model)
    twin.set_distilled_training(True)
    images = torch.randn(4, 3, 64, 64)
    expected = twin(images)
    for ours, theirs in zip(model.head.both_scores(model.extract_feat(images)), expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize('distillation', [False, True])
def test_a_fused_head_is_one_linear_layer_and_a_head_built_fused_takes_its_weights(distillation):
    model = classifier(distillation).eval()
    fused = fuse(model)
    assert [name for name in fused.state_dict() if name.startswith('head')] == ['head.fc.weight', 'head.fc.bias']
    assert fused.head.deploy and not model.head.deploy
    assert not any(isinstance(module, BNLinear) for module in fused.modules())
    assert fuse(fused).head is not None, 'fusing twice does nothing'
    head = build(dict(type='RepViTClsHead', num_classes=CLASSES, in_channels=40, distillation=True, deploy=True)).eval()
    head.load_state_dict(fused.head.state_dict())
    feats = (torch.randn(2, 40, 3, 3), )
    assert torch.equal(head(feats), fused.head(feats))


def test_pooled_features_and_maps_are_taken():
    head = classifier().eval().head
    maps = torch.randn(2, 40, 3, 3)
    torch.testing.assert_close(head((maps, )), head((maps.mean((2, 3)), )))


def test_the_loss_of_a_head_alone_is_that_of_the_mean():
    model = classifier().eval()
    feats = (torch.randn(4, 40), )
    labels = torch.tensor([0, 3, 6, 2])
    expected = torch.nn.functional.cross_entropy(model.head(feats), labels, label_smoothing=0.1)
    torch.testing.assert_close(model.head.loss(feats, samples(labels))['loss'], expected)


@pytest.mark.parametrize('wrong', [dict(num_classes=0), dict(num_classes=None), dict(in_channels=-1)])
def test_sizes_are_checked(wrong):
    with pytest.raises(ConfigError, match=f'head.{next(iter(wrong))}='):
        RepViTClsHead(**{**dict(num_classes=3, in_channels=8), **wrong})
