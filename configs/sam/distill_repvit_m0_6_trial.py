# The recipe on a small scale, to try it on a CPU with your own images. The teacher is small and has random weights, so
# no checkpoint is needed. The result cannot segment; it shows that the student learns from the teacher.
_base_ = './_base_/distill_repvit.py'
image_size = 128

model = dict(
    image_size=image_size,
    points_per_side=4,
    student=dict(arch='m0_6'),
    teacher=dict(
        encoder=dict(
            _delete_=True, type='SamVit', embed_dim=96, depth=4, num_heads=4, global_attn_indexes=(1, 3)),
        checkpoint=None,
        random=True))

train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(image_size=image_size))
val_dataloader = dict(num_workers=1, dataset=dict(image_size=image_size))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=8, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=5))
