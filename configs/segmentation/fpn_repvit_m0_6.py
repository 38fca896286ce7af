_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m0_6',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m0_6_distill_300e')),
    neck=dict(in_channels=[40, 80, 160, 320]))
