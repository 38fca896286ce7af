"""Checkpoints through the loaders of torch and of mmengine."""
import pytest
import torch
from checkpoint_samples import TINY, Classifier, Detector, RepViT, fuse, is_same, trained, values
from mmengine.runner import CheckpointLoader
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint

from repvit_mm import convert_state_dict
from repvit_mm.checkpoints import NAME_FORMATS, published
from repvit_mm.errors import CheckpointError, ConfigError


def names(model, format):
    return convert_state_dict(model.state_dict(), format)


@pytest.mark.parametrize('format', NAME_FORMATS)
@pytest.mark.parametrize('build', [RepViT, Detector])
def test_torch_takes_every_format_strictly(build, format):
    source, model = trained(build(TINY)), build(TINY)
    tensors = names(source, format)
    before = list(tensors)
    assert not any(model.load_state_dict(tensors, strict=True))
    assert is_same(source.state_dict(), model.state_dict())
    assert list(tensors) == before  # it belongs to the caller


@pytest.mark.parametrize('format', ['official', 'timm'])
@pytest.mark.parametrize('settings', [{}, {'out_indices': (1,)}, {'out_indices': (0, 2), 'feature_tap': 'penultimate'}],
                         ids=str)
def test_torch_puts_a_whole_published_classifier_into_any_backbone(format, settings):
    source, model = trained(Classifier(TINY)), RepViT(TINY, **settings)
    model.load_state_dict(names(source, format), strict=True)
    own, published = model.state_dict(), source.backbone.state_dict()
    assert is_same({name: published[name] for name in own}, own)


@pytest.mark.parametrize('format', NAME_FORMATS)
def test_torch_still_reports_missing_and_unexpected_tensors(format):
    tensors = names(trained(RepViT(TINY)), format)
    dropped = list(tensors)[6]
    del tensors[dropped]
    tensors['extra.weight'] = torch.zeros(1)
    missing, unexpected = RepViT(TINY).load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (['stem.conv2.conv.weight'], ['extra.weight'])
    with pytest.raises(RuntimeError, match='stem.conv2.conv.weight'):
        RepViT(TINY).load_state_dict(tensors)


@pytest.mark.parametrize('format', NAME_FORMATS)
def test_torch_takes_fused_weights_for_an_unfused_backbone(format, log):
    source, model = fuse(trained(RepViT(TINY))), trained(RepViT(TINY), seed=1)
    before = list(model.state_dict())
    model.load_state_dict(names(source, format))
    assert len(log.messages) == 1 and 'the checkpoint is fused: ' in log.messages[0]
    assert list(model.state_dict()) == before and not model.deploy
    assert is_same(fuse(model).state_dict(), source.state_dict())
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(image)[-1], source(image)[-1], rtol=1e-5, atol=1e-6)


def test_some_tensors_alone_may_be_loaded_where_torch_is_not_to_be_strict():
    source, model = trained(Detector(TINY)), trained(Detector(TINY), seed=1)
    before = values(model.backbone)
    head = {name: value for name, value in source.state_dict().items() if name.startswith('bbox_head')}
    model.load_state_dict(head, strict=False)
    assert torch.equal(model.bbox_head['fc_cls'].weight, source.bbox_head['fc_cls'].weight)
    assert is_same(before, model.backbone.state_dict())
    stem = {name: value for name, value in source.backbone.state_dict().items() if name.startswith('stem')}
    RepViT(TINY).load_state_dict(stem, strict=False)


# --- mmengine ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('format', NAME_FORMATS)
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_mmengine_takes_a_whole_detector(tmp_path, format, prefix):
    source, model = trained(Detector(TINY)), trained(Detector(TINY), seed=1)
    tensors = {prefix + name: value for name, value in names(source, format).items()}
    torch.save({'state_dict': tensors, 'meta': {}}, tmp_path / 'x.pth')
    mmengine_load_checkpoint(model, str(tmp_path / 'x.pth'))
    assert is_same(source.state_dict(), model.state_dict())


@pytest.mark.parametrize('content', [
    {'state_dict': {'conv1.weight': torch.zeros(1)}},
    {'model': {'features.0.0.c.weight': torch.zeros(1)}},
], ids=['another network', 'official classification file'])
def test_mmengine_does_not_start_from_random_weights_in_silence(tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match="the checkpoint has no tensor for the RepViT under 'backbone.'; "):
        mmengine_load_checkpoint(Detector(TINY), str(tmp_path / 'x.pth'))


def test_mmengine_does_not_mix_architectures_in_silence(tmp_path):
    torch.save({'state_dict': names(Detector({**TINY, 'depths': (1, 2, 5, 1)}), 'official')}, tmp_path / 'x.pth')
    model = Detector(TINY)
    before = values(model)
    with pytest.raises(CheckpointError, match=r"under 'backbone.' holds the weights of .*\(2, 3, 6, 1\) blocks.*, but "
                                              r'the model is .*\(2, 3, 4, 1\) blocks'):
        mmengine_load_checkpoint(model, str(tmp_path / 'x.pth'))
    assert is_same(before, model.state_dict())


def test_mmengine_knows_published_names(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    for build, name, key in ((Detector, 'm1_1_coco', 'state_dict'), (Classifier, 'm1_1_distill_300e', 'model')):
        source, model = trained(build(TINY)), trained(build(TINY), seed=1)
        torch.save({key: names(source, 'official'), 'meta': {'CLASSES': ('cat',)}}, cache / published()[name].file)
        checkpoint = mmengine_load_checkpoint(model, f'repvit://{name}')
        assert is_same(source.state_dict(), model.state_dict())
        assert checkpoint['meta'] == {'CLASSES': ('cat',)}
    with pytest.raises(CheckpointError, match='repvit://m9 is not a published checkpoint; choose from m0_6'):
        CheckpointLoader.load_checkpoint('repvit://m9')


# --- init_cfg ------------------------------------------------------------------------------------------------------

@pytest.fixture
def two(tmp_path):
    """A file with two RepViTs, and the two."""
    both = torch.nn.ModuleDict({'teacher': trained(RepViT(TINY)), 'student': trained(RepViT(TINY), seed=1)})
    torch.save({'state_dict': names(both, 'official')}, tmp_path / 'two.pth')
    return str(tmp_path / 'two.pth'), both


@pytest.mark.parametrize('as_list', [False, True])
def test_init_cfg_takes_the_repvit_under_a_prefix_and_refuses_a_file_with_two(two, as_list):
    def start(**settings):
        init_cfg = {'type': 'Pretrained', 'checkpoint': two[0], **settings}
        model = RepViT(TINY, init_cfg=[init_cfg] if as_list else init_cfg)
        model.init_weights()
        return model

    for prefix in ('student', 'student.'):
        assert is_same(two[1]['student'].state_dict(), start(prefix=prefix).state_dict())
    with pytest.raises(CheckpointError, match='RepViTs under teacher., student.'):
        start()
    with pytest.raises(CheckpointError, match='holds no tensors under backbone.; its first one is teacher.features.0'):
        start(prefix='backbone.')
    with pytest.raises(ConfigError, match="init_cfg=.* is invalid: .*'prefx'"):
        start(prefx='teacher')


def test_other_initialisations_in_a_list_go_before_the_weights(two):
    constant = {'type': 'Constant', 'layer': 'Conv2d', 'val': 7.}
    model = RepViT(TINY, init_cfg=[constant])
    model.init_weights()
    assert (model.stem.conv1.conv.weight == 7).all()
    pretrained = {'type': 'Pretrained', 'checkpoint': two[0], 'prefix': 'teacher'}
    model = RepViT(TINY, init_cfg=[pretrained, constant])
    model.init_weights()
    assert is_same(two[1]['teacher'].state_dict(), model.state_dict())
    assert model.init_cfg == [pretrained, constant]
