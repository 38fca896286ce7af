# Several labels for each image, trained on the embedded data set from random weights on a CPU. To
# draw the data set: python tools/draw_shapes.py multilabel data/shapes_multilabel
_base_ = '../classification/multilabel_repvit_m0_9.py'

model = dict(backbone=dict(init_cfg=None))

data_root = 'data/shapes_multilabel'
load_image = dict(type='LoadImageFromFile')
train_pipeline = [
    load_image,
    dict(type='RandomResizedCrop', scale=128, crop_ratio_range=(0.85, 1.), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    load_image,
    dict(type='ResizeEdge', scale=128, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=32, num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 8
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
