_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m0_9',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m0_9_distill_300e')),
    neck=dict(in_channels=[48, 96, 192, 384]))
