"""Small detectors of many kinds, with and without RepViT, with random weights that find objects."""
from functools import reduce

import torch
from inference_models import TINY, WIDTHS, write_config
from mmengine.config import Config

from repvit_mm.export.detectors import spread_outputs
from repvit_mm.models.inference import build_inference_model, randomise_weights

RESNET = [8, 16, 32, 64]
DENSE = dict(neck=dict(in_channels=RESNET, out_channels=64),
             bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=1, num_classes=5))
REGIONS = dict(rpn_head=dict(in_channels=16, feat_channels=16),
               test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(score_thr=0.2, max_per_img=30)))
FPN = dict(in_channels=RESNET, out_channels=16)
BOXES, MASKS = dict(in_channels=16, fc_out_channels=32, num_classes=5), dict(
    in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)
SMALL = dict(embed_dims=64)
LAYER = dict(self_attn_cfg=SMALL, ffn_cfg=dict(embed_dims=64, feedforward_channels=64))


def resnet(*indices):
    return dict(_delete_=True, type='ResNet', depth=18, base_channels=8, out_indices=indices, norm_eval=True)


def repvit(*indices):
    return dict(_delete_=True, type='RepViT', arch=TINY, out_indices=indices)


def mask_rcnn(samples):
    """Ours, with so many samples of a cell; 0 for as many as its size asks for."""
    roi = dict(roi_layer=dict(sampling_ratio=samples), out_channels=16)
    return None, dict(REGIONS, neck=dict(out_channels=16), roi_head=dict(
        bbox_roi_extractor=roi, bbox_head=BOXES, mask_roi_extractor=roi, mask_head=MASKS))


def transformer(*indices):
    return dict(backbone=resnet(*indices), num_queries=20,
                neck=dict(in_channels=[RESNET[i] for i in indices], out_channels=64),
                encoder=dict(num_layers=1, layer_cfg=LAYER),
                decoder=dict(num_layers=2, layer_cfg=dict(LAYER, cross_attn_cfg=SMALL)),
                positional_encoding=dict(num_feats=32), bbox_head=dict(embed_dims=64, num_classes=5),
                test_cfg=dict(max_per_img=20))


#: Name -> config of mmdet's zoo (None for ours), and changes of its model.
DETECTORS = {
    'mask_rcnn': mask_rcnn(0),
    'mask_rcnn_sampled': mask_rcnn(2),
    'retinanet': ('retinanet/retinanet_r50_fpn_1x_coco', dict(
        backbone=repvit(0, 1, 2, 3), neck=dict(in_channels=[*WIDTHS], out_channels=16),
        bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=5))),
    'rtmdet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco', dict(
        backbone=repvit(1, 2, 3), neck=dict(in_channels=[*WIDTHS[1:]], out_channels=16),
        bbox_head=dict(in_channels=16, feat_channels=16, num_classes=5), test_cfg=dict(max_per_img=50))),
    'rtmdet_ins': ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco', dict(
        backbone=repvit(1, 2, 3), neck=dict(in_channels=[*WIDTHS[1:]], out_channels=16),
        bbox_head=dict(in_channels=16, feat_channels=16, num_classes=5), test_cfg=dict(max_per_img=50))),
    'faster_rcnn': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', dict(
        REGIONS, backbone=resnet(0, 1, 2, 3), neck=FPN,
        roi_head=dict(bbox_roi_extractor=dict(out_channels=16), bbox_head=BOXES))),
    'carafe': ('carafe/mask-rcnn_r50_fpn-carafe_1x_coco', dict(
        REGIONS, backbone=resnet(0, 1, 2, 3), neck=FPN, roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16), bbox_head=BOXES, mask_roi_extractor=dict(out_channels=16),
            mask_head=MASKS))),
    'cascade': ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', dict(
        backbone=resnet(0, 1, 2, 3), neck=FPN, rpn_head=REGIONS['rpn_head'],
        test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=100), rcnn=REGIONS['test_cfg']['rcnn']),  # fewer in some images
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16), mask_head=MASKS,
            bbox_head=[dict(type='Shared2FCBBoxHead', reg_class_agnostic=True, **BOXES)] * 3))),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', dict(DENSE, backbone=resnet(0, 1, 2, 3))),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco', dict(DENSE, backbone=resnet(0, 1, 2, 3), test_cfg=dict(nms_pre=100))),
    'vfnet': ('vfnet/vfnet_r50_fpn_1x_coco', dict(DENSE, backbone=resnet(0, 1, 2, 3))),
    'yolox': ('yolox/yolox_s_8xb8-300e_coco', dict(
        backbone=dict(deepen_factor=0.1, widen_factor=0.125), bbox_head=dict(in_channels=16, feat_channels=16,
                                                                             num_classes=5),
        neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1))),
    'ssd': ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', dict(
        backbone=dict(widen_factor=0.25), neck=dict(in_channels=[24, 1280], out_channels=[24, 1280, 16, 16, 16, 16]),
        bbox_head=dict(in_channels=[24, 1280, 16, 16, 16, 16], num_classes=5))),
    'detr': ('detr/detr_r50_8xb2-150e_coco', transformer(3)),
    'deformable': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco', transformer(1, 2, 3)),
    'dino': ('dino/dino-4scale_r50_8xb2-12e_coco', transformer(1, 2, 3)),
    'centernet': ('centernet/centernet_r18_8xb16-crop512-140e_coco', dict(bbox_head=dict(num_classes=5))),
}


def write_detector(folder, kind):
    base, model = DETECTORS[kind]
    base = f'mmdet::{base}.py' if base else str(write_config(folder, 'detection'))
    Config(dict(_base_=base, model=model)).dump(folder / f'{kind}.py')
    return folder / f'{kind}.py'


def spread_detector(folder, kind):
    """The tiny detector of a kind, with random weights that find objects."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # with 0, RTMDet finds too little
        model = build_inference_model(write_detector(folder, kind))
        randomise_weights(model)
        spread_outputs(model)
    return model


def by_mmdet(model, image, size):
    """Detections of mmdet with the unfused model, in an image of a size before padding."""
    from mmdet.structures import DetDataSample
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.),
                                         batch_input_shape=tuple(image.shape[2:])))
    head = getattr(model.model, 'bbox_head', model.model)
    head.loss_cls = getattr(head, 'loss_cls', None)  # that of SSD has none, and mmdet's prediction reads it
    with torch.no_grad():
        return model.model.predict(image, [sample])[0].pred_instances


def mutate(model, path, change):
    """Change a weight or setting of a model."""
    owner, name = reduce(getattr, path.split('.')[:-1], model), path.rpartition('.')[2]
    value = getattr(owner, name)
    if isinstance(value, torch.nn.Parameter):
        value.data = change(value.data)
    else:
        setattr(owner, name, change(value))
