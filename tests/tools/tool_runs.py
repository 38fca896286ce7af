"""Small configs of the three toolboxes on the embedded data set, to run the tools on."""
from pathlib import Path

from repvit_mm.datasets.shapes import CLASSES, write_classification, write_coco, write_segmentation

REPOSITORY = Path(__file__).parents[2]
SIZE = 64

ARCH = dict(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1))

DETECTION = f"""
_base_ = {str(REPOSITORY / 'configs/detection/maskrcnn_repvit_m0_6.py')!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{ARCH}), norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes={len(CLASSES)}),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_classes={len(CLASSES)})),
    test_cfg=dict(rcnn=dict(score_thr=0.)))
metainfo = dict(classes={CLASSES})
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(num_workers=0, dataset=dict(
    metainfo=metainfo, ann_file='annotations/instances_train.json', data_prefix=dict(img='images/train/'),
    pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(
    metainfo=metainfo, ann_file='annotations/instances_val.json', data_prefix=dict(img='images/val/'),
    pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/coco/annotations/instances_val.json')
test_evaluator = val_evaluator
# Enough of a learning rate that the figures of a test depend on the weights that are tested.
param_scheduler = []
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""

SEGMENTATION = f"""
_base_ = {str(REPOSITORY / 'configs/segmentation/fpn_repvit_m0_6.py')!r}
metainfo = dict(classes=('background', *{CLASSES}), palette=[[20 * i, 90, 200 - 20 * i] for i in range(9)])
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, **{ARCH}), norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16, num_classes=9))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(
    _delete_=True, type='BaseSegDataset', metainfo=metainfo, data_root='data/shapes', pipeline=train_pipeline,
    seg_map_suffix='.png', img_suffix='.png')
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(
    **dataset, data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train')))
val_dataloader = dict(num_workers=0, dataset=dict(
    **dataset, data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val')))
test_dataloader = val_dataloader
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""

CLASSIFICATION = f"""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    backbone=dict(type='RepViT', arch={ARCH}, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes={len(CLASSES)}, in_channels=32,
              loss=dict(type='CrossEntropyLoss'), topk=(1,)))
classes = {CLASSES}
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(
    type='CustomDataset', data_root='data/shapes', data_prefix='train', classes=classes, pipeline=pipeline))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='CustomDataset', data_root='data/shapes', data_prefix='val', classes=classes, pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
"""

#: Toolbox -> its config, what writes its data set, and how many pictures to train and to validate with.
TOOLBOXES = {
    'mmdet': (DETECTION, write_coco, 4, 3),
    'mmseg': (SEGMENTATION, write_segmentation, 4, 3),
    'mmpretrain': (CLASSIFICATION, write_classification, len(CLASSES), len(CLASSES)),
}


def set_up(toolbox, root):
    """Write the config and the data set of a toolbox into a folder; gives both paths."""
    text, write, train, val = TOOLBOXES[toolbox]
    config = root / f'{toolbox}_tiny.py'
    config.write_text(text)
    return config, write(root / 'shapes', SIZE, train=train, val=val, quiet=True)
