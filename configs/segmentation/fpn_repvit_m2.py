_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m2',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m2_distill_300e')),
    neck=dict(in_channels=[64, 128, 256, 512]))
