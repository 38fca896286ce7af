# The published ImageNet recipe without a teacher: 8 GPUs x 256 images, 300 epochs.
_base_ = ['./imagenet.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training.classification', 'repvit_mm.training'])

model = dict(
    type='ImageClassifier',
    backbone=dict(type='RepViT', out_indices=(3, )),
    head=dict(
        type='RepViTClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))

optim_wrapper = dict(
    type='AmpOptimWrapper',
    clip_factor=0.02,
    # Learning rate: 1e-3 for 512 images. No weight decay on biases and BatchNorms.
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.025),
    constructor='TwoGroupsConstructor')
# The learning rate is scaled to the batch size.
auto_scale_lr = dict(enable=True, base_batch_size=2048)

param_scheduler = dict(type='PublishedCosineLR', epochs=300)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = {}
test_cfg = {}

default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
custom_hooks = [dict(type='ModelEmaHook', decay=0.99996), dict(type='ChannelsLast')]
