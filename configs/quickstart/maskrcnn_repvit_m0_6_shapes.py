# A Mask R-CNN, trained on the embedded data set from random weights in minutes on two CPU cores: configs/detection at
# a fifth of the resolution, with a quarter of the channels and without the finest map. `make quickstart` runs it; to
# draw the data set alone: python tools/draw_shapes.py detection data/shapes_detection
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training'])

data_root = 'data/shapes_detection/'
classes = ('circle', 'square', 'triangle', 'star', 'heart', 'cross', 'ring', 'crescent')
scale = (160, 160)
max_iters = 1450
strides = [8, 16, 32]
channels = 64
# BatchNorm in neck and heads, too: training starts from random weights.
norm_cfg = dict(type='BN')
# Objects have 20 to 90 pixels. Regions below 112 pixels (2 x finest_scale) are pooled from the map of stride 8.
roi_extractor = dict(
    out_channels=channels, featmap_strides=strides, finest_scale=56, roi_layer=dict(sampling_ratio=1))

model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[80, 160, 320], out_channels=channels, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(
            type='ConvFCBBoxHead', num_shared_convs=2, num_shared_fcs=1, in_channels=channels,
            conv_out_channels=channels, fc_out_channels=256, norm_cfg=norm_cfg, num_classes=len(classes)),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(
            in_channels=channels, conv_out_channels=channels, num_convs=2, norm_cfg=norm_cfg,
            num_classes=len(classes))),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=20)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # Shapes keep their class when they are flipped.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='InfiniteSampler'),
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        metainfo=dict(classes=classes),
        pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        metainfo=dict(classes=classes),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, T_max=max_iters - 50, eta_min_ratio=0.01),
]
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type='ChannelsLast')]
