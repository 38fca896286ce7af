_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m3',
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m3_distill_300e')),
    neck=dict(in_channels=[64, 128, 256, 512]))
