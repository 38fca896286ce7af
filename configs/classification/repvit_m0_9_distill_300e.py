_base_ = './_base_/repvit_distill_300e.py'

model = dict(backbone=dict(arch='m0_9'), head=dict(in_channels=384))

# 8 GPUs x 192 images.
train_dataloader = dict(batch_size=192)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
auto_scale_lr = dict(base_batch_size=1536)
