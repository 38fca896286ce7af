# An example of training on your own data set: CamVid has 11 classes of street scenes in 480 x 360, and a folder of
# images and one of labels for each split. Training starts from random weights and takes about 11 minutes on two CPU
# cores; comments mark the settings for that. --data-root DIR is the folder of the data.
_base_ = './fpn_repvit_m0_6.py'

# The value of a pixel in a label image is the index of its class here; 255 is ignored.
metainfo = dict(
    classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
    palette=[[135, 190, 235], [178, 91, 82], [245, 200, 66], [120, 112, 130], [226, 132, 196], [88, 148, 76],
             [255, 118, 30], [160, 126, 92], [48, 88, 196], [220, 36, 60], [20, 200, 190]])
crop_size = (256, 256)

model = dict(
    data_preprocessor=dict(size=crop_size),
    # For random weights: BatchNorm statistics are updated. To start from ImageNet weights, remove this line.
    backbone=dict(init_cfg=None, norm_eval=False),
    # For the CPU: a quarter of the published decoder's width.
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        num_classes=11,
        # sqrt(median frequency / frequency); without it, poles and cyclists hardly count.
        loss_decode=dict(class_weight=[0.5, 0.4, 2.2, 0.4, 1.0, 0.7, 1.9, 2.1, 0.9, 2.6, 4.0])))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.75, 1.75), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root='data/camvid',
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root='data/camvid',
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.75, 1.0, 1.25)],
            [dict(type='ResizeToMultiple', size_divisor=32)],
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]

# For random weights: a higher learning rate after a short warm-up, and more weight decay than for fine-tuning.
optim_wrapper = dict(optimizer=dict(lr=1.5e-3, weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=50, end=900, by_epoch=False),
]
train_cfg = dict(max_iters=900, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300, max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=8)
