# Fine-tuning on your own folder of images:
#   python tools/train.py configs/classification/finetune_repvit_m0_9.py --data-root DIR
_base_ = ['./_base_/image_folder.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training.classification', 'repvit_mm.training'])
custom_hooks = [dict(type='ChannelsLast', on_gpu=False)]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='RepViT',
        arch='m0_9',
        out_indices=(3, ),
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m0_9_distill_300e')),
    head=dict(
        type='RepViTClsHead',
        num_classes=1000,  # the tools set it to the number of folders
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))

max_epochs = 30
optim_wrapper = dict(
    type='OptimWrapper',
    clip_factor=0.02,
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.025),
    constructor='TwoGroupsConstructor')
auto_scale_lr = dict(enable=True, base_batch_size=64)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=3, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = {}
test_cfg = {}

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
