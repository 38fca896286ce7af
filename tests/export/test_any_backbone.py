"""Models of the toolboxes' own zoos, without RepViT: folded where that is certain, exported, and as they were."""
import numpy as np
import pytest
import torch
from mmengine.config import Config
from test_detectors import by_mmdet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_mm.analysis import count
from repvit_mm.errors import ExportError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.detections import detect
from repvit_mm.export.detectors import kind_of, spread_outputs
from repvit_mm.export.images import load_inputs
from repvit_mm.export.runtimes import open_exported
from repvit_mm.models.folding import fold_pairs, fuse_model
from repvit_mm.models.inference import build_inference_model, get_model, randomise_weights

SHAPE = (64, 96)
WIDTHS = [8, 16, 32, 64]
FPN = dict(in_channels=WIDTHS, out_channels=16)
DENSE = dict(neck=dict(in_channels=WIDTHS, out_channels=64),
             bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=1, num_classes=5))
REGIONS = dict(neck=FPN, rpn_head=dict(in_channels=16, feat_channels=16),
               test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.2, max_per_img=30)))
ROI_HEAD = dict(in_channels=16, fc_out_channels=32, num_classes=5)
SMALL = dict(embed_dims=64)
LAYER = dict(self_attn_cfg=SMALL, ffn_cfg=dict(embed_dims=64, feedforward_channels=64))


def transformer(indices):
    return dict(num_queries=20, neck=dict(in_channels=[WIDTHS[i] for i in indices], out_channels=64),
                encoder=dict(num_layers=1, layer_cfg=LAYER),
                decoder=dict(num_layers=2, layer_cfg=dict(LAYER, cross_attn_cfg=SMALL)),
                positional_encoding=dict(num_feats=32), bbox_head=dict(embed_dims=64, num_classes=5),
                test_cfg=dict(max_per_img=20))


#: Name -> config of the zoo, maps of a small ResNet-18 (None keeps the backbone), and changes of the model.
DETECTORS = {
    'faster_rcnn': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', (0, 1, 2, 3), dict(
        REGIONS, roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=ROI_HEAD))),
    'cascade': ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', (0, 1, 2, 3), dict(
        REGIONS, roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16),
            bbox_head=[dict(type='Shared2FCBBoxHead', reg_class_agnostic=True, **ROI_HEAD)] * 3,
            mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)))),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', (0, 1, 2, 3), DENSE),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco', (0, 1, 2, 3), DENSE),
    'vfnet': ('vfnet/vfnet_r50_fpn_1x_coco', (0, 1, 2, 3), DENSE),
    'yolox': ('yolox/yolox_s_8xb8-300e_coco', None, dict(
        backbone=dict(deepen_factor=0.1, widen_factor=0.125), bbox_head=dict(in_channels=16, feat_channels=16,
                                                                             num_classes=5),
        neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1))),
    'detr': ('detr/detr_r50_8xb2-150e_coco', (3,), transformer((3,))),
    'deformable': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco', (1, 2, 3), transformer((1, 2, 3))),
    'dino': ('dino/dino-4scale_r50_8xb2-12e_coco', (1, 2, 3), transformer((1, 2, 3))),
    'centernet': ('centernet/centernet_r18_8xb16-crop512-140e_coco', None, dict(bbox_head=dict(num_classes=5))),
}


def write_zoo_config(folder, name):
    """A detector of mmdet's zoo, with few channels."""
    base, indices, model = DETECTORS[name]
    if indices is not None:
        model = dict(model, backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8,
                                          out_indices=indices, norm_eval=True))
    Config(dict(_base_=f'mmdet::{base}.py', model=model)).dump(folder / f'{name}.py')
    return folder / f'{name}.py'


def zoo_detector(folder, name):
    """The detector, with random weights that find objects."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_inference_model(write_zoo_config(folder, name))
        randomise_weights(model)
        spread_outputs(model)
    return model


@pytest.mark.parametrize('kind, name', [
    ('faster_rcnn', 'onnx'), ('yolox', 'openvino'), ('detr', 'onnx'),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        ('cascade', 'onnx'), ('fcos', 'onnx'), ('gfl', 'onnx'), ('yolox', 'coreml'), ('deformable', 'onnx'),
        ('dino', 'onnx')))])
def test_a_detector_of_the_zoo_finds_what_mmdet_finds(kind, name, tmp_path):
    model, shape = zoo_detector(tmp_path, kind), SHAPE
    report = export_model(model, name, shape, tmp_path / f'model{FORMATS[name].suffix}',
                          Options('fp32', selection=Selection(max_detections=20)))
    assert not report.operations['BatchNormalization'] and not report.operations['batch_norm']
    file, image = open_exported(report.path, FORMATS[name].engine), load_inputs(shape, 4, model.normalisation)[-1:]
    found, expected = detect(file, image, shape), by_mmdet(model, image, shape)[:20]
    assert len(expected) > 5 and found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    inside = expected.bboxes.minimum(torch.tensor(shape[::-1] * 2))
    np.testing.assert_allclose(found.boxes, inside, atol=2e-2)
    assert 'RepViT' not in file.facts['description'] and file.facts['max_detections'] == 20


def test_a_head_that_is_not_supported_is_named_beside_those_that_are(tmp_path):
    with pytest.raises(ExportError, match='centernet has CenterNet with CenterNetHead, which cannot be exported; '
                                          'supported are Faster .*RetinaNet.*GFL; YOLOX; DETR'):
        kind_of(build_inference_model(write_zoo_config(tmp_path, 'centernet')))


@pytest.mark.slow
def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(ExportError, match='vfnet.*DeformConv'):
        export_model(zoo_detector(tmp_path, 'vfnet'), 'onnx', SHAPE, tmp_path / 'model.onnx',
                     Options(selection=Selection()))
    assert not (tmp_path / 'model.onnx').exists()


OTHERS = {
    'resnet': ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', dict(backbone=dict(base_channels=8, stem_channels=8),
                                                                    head=dict(in_channels=64))),
    'mobilenet': ('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', dict(backbone=dict(widen_factor=0.25))),
    'segformer': ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', dict(
        backbone=dict(embed_dims=8, num_layers=(1, 1, 1, 1)),
        decode_head=dict(in_channels=(8, 16, 40, 64), channels=16, num_classes=5))),
    'deeplab': ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py', dict(
        backbone=dict(depth=18, base_channels=8), auxiliary_head=None,
        decode_head=dict(in_channels=64, c1_in_channels=8, c1_channels=8, channels=16, num_classes=5))),
}


@pytest.fixture(scope='module', params=OTHERS)
def other(request, tmp_path_factory):
    base, model = OTHERS[request.param]
    path = tmp_path_factory.mktemp('zoo') / f'{request.param}.py'
    Config(dict(_base_=base, model=model)).dump(path)
    built = build_inference_model(path)
    randomise_weights(built)
    return path, built


@pytest.mark.parametrize('name', ['onnx', 'coreml'])
def test_classifiers_and_segmentors_of_the_zoos_are_exported(name, other, tmp_path):
    _, model = other
    report = export_model(model, name, (64, 64), tmp_path / f'model{FORMATS[name].suffix}', Options('fp32'))
    image = load_inputs((64, 64), 4, model.normalisation)[-1:]
    with torch.no_grad():
        (expected,) = model(image)
    found = open_exported(report.path, FORMATS[name].engine).run({'image': image.numpy()})['logits']
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_they_are_counted_and_got_by_their_config(other):
    path, model = other
    fused = fuse_model(model)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    training, inference = (count(model, (64, 64), form) for form in (False, True))
    assert inference.parameters < training.parameters and inference.macs <= training.macs
    assert type(get_model(path, pretrained=False)) is type(model.model)


class Pairs(nn.Module):
    """A pair; two convolutions, a reader of the second map, a BatchNorm of two maps: only the first is certain."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(3) for _ in range(3))
        for norm in (self.bn1, self.bn2, self.bn3):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, image):
        first, second = self.bn1(self.conv1(image)), self.conv2(image)
        return first + self.bn2(second) * second.relu() + self.bn3(self.conv3(image)) + self.bn3(self.conv4(image))


@torch.no_grad()
def test_a_pair_is_folded_only_where_nothing_else_reads_the_map():
    torch.manual_seed(0)
    model, image = Pairs(), torch.randn(2, 3, 8, 8)
    expected = model(image)
    assert fold_pairs(model, image) == 1 and isinstance(model.bn1, nn.Identity)
    assert isinstance(model.bn2, nn.BatchNorm2d) and isinstance(model.bn3, nn.BatchNorm2d)
    torch.testing.assert_close(model(image), expected)
