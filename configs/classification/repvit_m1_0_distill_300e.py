_base_ = './_base_/repvit_distill_300e.py'

model = dict(backbone=dict(arch='m1_0'), head=dict(in_channels=448))
