_base_ = './_base_/fpn_repvit.py'

model = dict(
    backbone=dict(
        arch='m2',
        # The paper's first version: these weights are not released; ../classification/repvit_m2_distill_300e.py
        # trains them.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/repvit_m2_distill_300e.pth')),
    neck=dict(in_channels=[64, 128, 256, 512]))
