# Distillation of SAM's ViT-H into a RepViT, as published (https://arxiv.org/abs/2312.05760): mean squared error of the
# embeddings, 8 epochs, images without labels. The paper trains on 1 % of SA-1B; optimiser and learning rate are ours,
# as the paper does not give them.
custom_imports = dict(imports=['repvit_mm.sam.distillation', 'repvit_mm.training'])
custom_hooks = [dict(type='ChannelsLast', on_gpu=False)]
default_scope = None
image_size = 1024

model = dict(
    type='SamDistiller',
    image_size=image_size,
    student=dict(arch='m2_3'),
    # cache='data/sa1b/embeddings' keeps the teacher's embeddings of the first epoch for the others.
    teacher=dict(encoder='vit_h', checkpoint='checkpoints/sam_vit_h_4b8939.pth'))

data_root = 'data/sa1b'
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='SamImages', data_root=data_root, data_prefix=dict(img='train'), image_size=image_size))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='SamImages', data_root=data_root, data_prefix=dict(img='val'), image_size=image_size))
test_dataloader = val_dataloader
val_evaluator = dict(type='DistillationAgreement')
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8, val_interval=1)
val_cfg = {}
test_cfg = {}
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=8, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)  # 8 GPUs x 8 images

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='teacher/mask_iou', rule='greater'))
