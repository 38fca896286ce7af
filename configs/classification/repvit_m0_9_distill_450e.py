_base_ = './_base_/repvit_distill_450e.py'

model = dict(backbone=dict(arch='m0_9'), head=dict(in_channels=384))
