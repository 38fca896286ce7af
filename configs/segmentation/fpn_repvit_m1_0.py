_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m1_0',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m1_0_distill_300e')),
    neck=dict(in_channels=[56, 112, 224, 448]))
