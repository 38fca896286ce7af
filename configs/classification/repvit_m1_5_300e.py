_base_ = './_base_/repvit_300e.py'

model = dict(backbone=dict(arch='m1_5'), head=dict(in_channels=512))
