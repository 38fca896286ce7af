_base_ = './_base_/repvit_distill_300e.py'

model = dict(backbone=dict(arch='m2_3'), head=dict(in_channels=640))

# 8 GPUs x 128 images.
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=1024)
