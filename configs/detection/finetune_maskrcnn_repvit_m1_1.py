# Fine-tuning on your own classes (docs/own_data.md), from the Mask R-CNN that was trained on COCO: half of its epochs,
# and a tenth of the learning rate for the backbone. No figure is published.
_base_ = './maskrcnn_repvit_m1_1.py'

load_from = 'repvit://m1_1_coco'
model = dict(backbone=dict(init_cfg=None))  # load_from has the backbone, too
train_dataloader = dict(batch_size=4)

max_epochs = 6
# For one GPU; heads for other classes start from random weights, which a rate scaled down from 8 GPUs would not move.
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
auto_scale_lr = dict(base_batch_size=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
