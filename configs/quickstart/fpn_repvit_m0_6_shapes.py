# A Semantic FPN, trained on the embedded data set from random weights in minutes on two CPU cores. For published
# results, see configs/segmentation: this model has fewer channels and smaller images. To draw the data set:
# python tools/draw_shapes.py segmentation data/shapes_segmentation
_base_ = '../segmentation/fpn_repvit_m0_6.py'

metainfo = dict(
    classes=('background', 'circle', 'square', 'triangle', 'star', 'heart', 'cross', 'ring', 'crescent'),
    palette=[[60, 64, 72], [230, 57, 70], [244, 132, 55], [250, 196, 55], [124, 181, 76], [38, 156, 131],
             [52, 152, 219], [72, 91, 199], [146, 84, 200]])
crop_size = (160, 160)
channels = 64

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(init_cfg=None, norm_eval=False),
    neck=dict(out_channels=channels),
    decode_head=dict(in_channels=[channels] * 4, channels=channels, num_classes=9))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(192, 192), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
data_root = 'data/shapes_segmentation'
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        metainfo=metainfo,
        img_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        metainfo=metainfo,
        img_suffix='.png',
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.75, 1.0, 1.25)],
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]

optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=50, end=1300, by_epoch=False),
]
train_cfg = dict(max_iters=1300, val_interval=325)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=325, max_keep_ckpts=1))
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training'])
custom_hooks = [dict(type='ChannelsLast')]
auto_scale_lr = dict(base_batch_size=8)
