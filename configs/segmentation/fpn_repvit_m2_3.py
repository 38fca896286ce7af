_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m2_3',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m2_3_distill_450e')),
    neck=dict(in_channels=[80, 160, 320, 640]))
