"""The authors' detectors and segmentors, files of mmdet 2.x and mmseg 0.x, in our models."""
from pathlib import Path

import pytest
import torch
from checkpoint_samples import RepViT, is_same, trained
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint

from repvit_mm import convert_state_dict, load_checkpoint

CONFIGS = Path(__file__).parents[2] / 'configs'


def layers(*names):
    return [f'{name}.{tensor}' for name in names for tensor in ('weight', 'bias')]


def conv_bn(name):
    return [f'{name}.conv.weight', *(f'{name}.bn.{tensor}' for tensor in (
        'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'))]


FPN = layers(*(f'neck.{kind}_convs.{level}.conv' for kind in ('lateral', 'fpn') for level in range(4)))
# What stands beside the backbone in the published files: Mask R-CNN with FPN as mmdet 2.x names it, ...
MASK_RCNN = FPN + layers(
    'rpn_head.rpn_conv', 'rpn_head.rpn_cls', 'rpn_head.rpn_reg', 'roi_head.bbox_head.fc_cls',
    'roi_head.bbox_head.fc_reg', 'roi_head.bbox_head.shared_fcs.0', 'roi_head.bbox_head.shared_fcs.1',
    *(f'roi_head.mask_head.convs.{number}.conv' for number in range(4)),
    'roi_head.mask_head.upsample', 'roi_head.mask_head.conv_logits')
# ... and Semantic FPN as mmseg 0.x names it; every other layer of a scale head enlarges.
SEMANTIC_FPN = FPN + layers('decode_head.conv_seg') + [
    name for level, depth in enumerate((1, 1, 2, 3)) for number in range(depth)
    for name in conv_bn(f'decode_head.scale_heads.{level}.{2 * number}')]


def build(scope, config):
    """The model of a config, without the weights that it would download."""
    cfg = Config.fromfile(CONFIGS / config).model
    cfg.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


@pytest.fixture(scope='module', params=[
    ('mmdet', 'detection/maskrcnn_repvit_m0_6.py', MASK_RCNN),
    ('mmseg', 'segmentation/fpn_repvit_m0_6.py', SEMANTIC_FPN)], ids=['Mask R-CNN', 'Semantic FPN'])
def model_and_names(request):
    """Our model, and the names of the authors' file for it."""
    scope, config, others = request.param
    model = build(scope, config)
    with torch.device('meta'):
        official = convert_state_dict(RepViT('m0_6').state_dict(), 'official')
    return model, [*(f'backbone.{name}' for name in official), *others]


@pytest.fixture
def file(model_and_names, tmp_path):
    """Such a file, and its values under our names."""
    model, names = model_and_names
    values = {name: value.clone() for name, value in trained(model, seed=1).state_dict().items()}
    official = convert_state_dict(values, 'official')
    torch.save({'state_dict': {name: official[name] for name in names}, 'optimizer': {},
                'meta': {'mmdet_version': '2.28.2', 'CLASSES': ('cat',), 'epoch': 12}}, tmp_path / 'x.pth')
    trained(model, seed=2)
    return tmp_path / 'x.pth', values


def test_our_model_has_the_tensors_of_the_published_file_and_no_others(model_and_names):
    model, names = model_and_names
    assert sorted(convert_state_dict(model.state_dict(), 'official')) == sorted(names)


def test_a_published_file_is_taken_completely_by_us_and_by_mmengine_alone(model_and_names, file):
    (model, names), (path, values) = model_and_names, file
    report = load_checkpoint(model, path)
    assert report.taken == report.total == len(names)
    assert not report.not_needed and not report.problems
    assert is_same(model.state_dict(), values)
    mmengine_load_checkpoint(trained(model, seed=3), str(path), strict=True)
    assert is_same(model.state_dict(), values)


def test_a_classifier_left_in_the_backbone_does_no_harm(model_and_names, file):
    (model, _), (path, values) = model_and_names, file
    content = torch.load(path, weights_only=True)
    content['state_dict']['backbone.classifier.classifier.l.weight'] = torch.zeros(1000, 320)
    torch.save(content, path)
    assert load_checkpoint(model, path).not_needed == ('backbone.classifier.classifier.l.weight',)
    assert is_same(model.state_dict(), values)
