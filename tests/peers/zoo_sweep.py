"""Configs of the installed toolboxes with RepViT m0_6 in the place of their ResNet: one training step, one prediction.

``python tests/peers/zoo_sweep.py TOOLBOX [CONFIG ...]`` runs them in one process, and prints a line of JSON for each.
"""
import copy
import gc
import json
import math
import re
import sys
from importlib import import_module
from pathlib import Path

import torch
from mmengine import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import PixelData

from repvit_mm import RepViT, out_channels

ARCH, SIZE = 'm0_6', 128
#: Channels of a ResNet-50 -> of RepViT.
CHANNELS = dict(zip((256, 512, 1024, 2048), out_channels(ARCH), strict=True))
#: Folders whose samples are videos, or labelled and unlabelled images.
OTHER_SAMPLES = ('masktrack_rcnn', 'mask2former_vis', 'qdtrack', 'reid', 'soft_teacher')
#: Folder -> the config to take, where the shortest one fails with its own ResNet, too.
INSTEAD = {'cascade_rpn': 'cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
           'sort': 'faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'}
#: Folder -> settings that follow from the channels by a rule of the model's own.
FOLLOWING = {'bisenetv1': {'backbone.spatial_channels': (64, 64, 64, 80), 'decode_head.in_channels': 1024,
                           'auxiliary_head.0.in_channels': 80, 'auxiliary_head.1.in_channels': 80},
             'fastfcn': {'decode_head.in_channels': [80, 160, 2048]}}
#: Parts whose channels are not the backbone's.
OTHER_MAPS = ('feat_relay_head', 'predictor')
#: Settings that make steps long or queries more than a small image has pixels -> their largest value.
LIMITS = {'max_per_img': 50, 'nms_pre': 100, 'num_queries': 100, 'num_proposals': 50, 'num_points': 196,
          'num_dn_queries': 10, 'queue_len': 1024, 'num_cp': 0, 'hid_channels': 512}
#: mmpretrain's heads for pooled maps that no config here has -> their settings.
HEADS = {'EfficientFormerClsHead': dict(distillation=False), 'LeViTClsHead': dict(distillation=False),
         'MultiLabelLinearClsHead': {}, 'StackedLinearClsHead': dict(mid_channels=[32]),
         'VigClsHead': {}, 'VisionTransformerClsHead': {}}


def folder_of(toolbox):
    return Path(import_module(toolbox).__file__).parent / '.mim' / 'configs'


def configs(toolbox):
    """One config of each folder of a toolbox's zoo: the shortest name with a ResNet-50, or else a ResNet-101."""
    for folder in sorted(folder_of(toolbox).iterdir()):
        names = sorted((path.name for path in folder.glob('*.py') if re.search(r'(r|resne\w+|_s)(50|101)', path.name)),
                       key=lambda name: (not re.search(r'(r|t|s)50', name), len(name), name))
        if names and folder.name not in OTHER_SAMPLES:
            yield f'{folder.name}/{INSTEAD.get(folder.name, names[0])}'
    if toolbox == 'mmpretrain':
        yield from (f'heads/{name}' for name in HEADS)


def read_config(toolbox, name):
    folder, _, head = name.partition('/')
    if folder != 'heads':
        return Config.fromfile(folder_of(toolbox) / name)
    return Config(dict(model=dict(
        type='ImageClassifier', backbone=dict(type='ResNet'), neck=dict(type='GlobalAveragePooling'),
        head=dict(type=head, num_classes=5, in_channels=2048, **HEADS[head]))))


def with_repvit(model, taps):
    """Replace every ResNet in a model's config, and the channels that follow from it; ``taps`` if it names none."""
    found = []

    def walk(value, key=''):
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if not isinstance(value, dict):
            if key == 'teacher_config':
                return str(folder_of('mmdet').parent / value)
            if key == 'teacher_ckpt':
                return None
            if key in LIMITS and isinstance(value, int):
                return min(value, LIMITS[key])
            is_width = key == 'c1_in_channels' or 'in_channels' in key and value in (1024, 2048)
            return CHANNELS.get(value, value) if is_width else value
        kind = str(value.get('type', ''))
        if re.fullmatch(r'(\w+\.)?(DetectoRS_|SE)?ResN\w+', kind):
            found.append(kind)
            strides = value.get('strides', (1, 2, 2, 2))
            return dict(type='RepViT', arch=ARCH, out_indices=value.get('out_indices', taps),
                        strides=(4, *strides[1:], 2)[:4])
        if kind == 'MMSyncBN':  # it cannot be built in a single process
            value['type'] = 'BN'
        if kind.endswith('Sampler') and value.get('num'):
            value['num'] = 32
        return {name: item if name in OTHER_MAPS else type(item)(CHANNELS.get(n, n) for n in item)
                if name in ('in_channels', 'context_channels') and isinstance(item, list | tuple)
                and set(item) <= set(CHANNELS) and len(set(item)) == len(item) and item[-1] > 256 else walk(item, name)
                for name, item in value.items()}
    model = walk(copy.deepcopy(model))
    return model, bool(found)


def batch_for(toolbox, settings):
    if toolbox == 'mmdet':
        from mmdet.testing import demo_mm_inputs, demo_mm_proposals
        shapes = [(3, SIZE, SIZE)] * 2
        batch = demo_mm_inputs(2, image_shapes=shapes, num_items=[3, 2], num_classes=3, with_mask=True,
                               with_semantic=True)
        for sample, proposals in zip(batch['data_samples'], demo_mm_proposals(shapes, 20), strict=True):
            sample.gt_instances.labels.zero_()  # some data sets have a single class
            if settings.type == 'FastRCNN':
                sample.proposals = proposals
        return batch
    images = [torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(2)]
    if toolbox == 'mmseg':
        from mmseg.structures import SegDataSample
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, SIZE, SIZE))),
                                 metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE))) for _ in range(2)]
    else:
        from mmpretrain.structures import DataSample
        samples = [DataSample().set_gt_label(n) for n in range(2)]
        if not settings.type.startswith('Image'):  # it learns from several views of each image
            views = sum(settings.head.loss.get('num_crops', [2]))
            images = [torch.stack(images).roll(view, dims=-1) for view in range(views)]
    return dict(inputs=images, data_samples=samples)


def run(toolbox, name):
    """The outcome for a config: the loss, or what went wrong."""
    torch.manual_seed(0)
    MessageHub.get_instance('sweep').update_info_dict(dict(iter=0, epoch=0))  # BoxInst and TOOD read them
    cfg = read_config(toolbox, name)
    init_default_scope(cfg.get('default_scope') or toolbox)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    settings, swapped = with_repvit(cfg.model.to_dict(), (3,) if toolbox == 'mmpretrain' else (0, 1, 2, 3))
    settings = Config(settings)
    settings.merge_from_dict(FOLLOWING.get(name.partition('/')[0], {}))
    settings = Config(dict(model=settings.to_dict())).model
    if not swapped:
        return dict(skipped='no ResNet in the model')
    settings.pop('pretrained', None)
    if toolbox == 'mmseg':
        settings['data_preprocessor'].update(size=(SIZE, SIZE))
        settings['data_preprocessor'].pop('size_divisor', None)
        settings['test_cfg'].update(mode='whole')
    if toolbox == 'mmdet':
        settings['data_preprocessor'].pop('batch_augments', None)  # such as padding to 1024 pixels
    if 'prototype' in settings:
        settings.prototype = torch.rand(2, CHANNELS[2048])
    model = revert_sync_batchnorm(MODELS.build(settings))
    if getattr(model, 'with_rpn', False):
        model.rpn_head.init_weights()  # Sparse R-CNN's proposals start as the whole image
    model.train()  # a model with a teacher returns None
    batch = batch_for(toolbox, settings)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    trained = [p for module in model.modules() if isinstance(module, RepViT) for p in module.parameters()]
    model.eval()
    with torch.no_grad():
        predicts = isinstance(data['inputs'], torch.Tensor)
        predictions = ([model.test_step({key: [values[i]] for key, values in batch.items()})[0] for i in range(2)]
                       if predicts else model(data['inputs'][0], mode='tensor')[0])
    return dict(loss=float(loss), finite=math.isfinite(loss) and any(p.grad is not None for p in trained),
                predictions=len(predictions))


def main(toolbox, *names):
    for name in names or configs(toolbox):
        try:
            outcome = run(toolbox, name)
        except Exception as error:
            outcome = dict(error=f'{type(error).__name__}: {" ".join(str(error).split())[-200:]}')
        print(json.dumps(dict(config=name, **outcome)), flush=True)
        DefaultScope._instance_dict.clear()
        gc.collect()


if __name__ == '__main__':
    main(*sys.argv[1:])
