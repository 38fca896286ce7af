# Fine-tuning on your own classes, from the Mask R-CNN that was trained on COCO: half of the published epochs, and a
# tenth of the learning rate for the backbone. No figure is published. Your data: docs/own_data.md.
_base_ = './maskrcnn_repvit_m1_1.py'

load_from = 'repvit://m1_1_coco'
model = dict(backbone=dict(init_cfg=None))  # load_from has the backbone, too

max_epochs = 6
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
# The learning rate is for 16 images, and scaled to the batch size.
auto_scale_lr = dict(enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
