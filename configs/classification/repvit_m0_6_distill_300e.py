_base_ = './_base_/repvit_distill_300e.py'

model = dict(backbone=dict(arch='m0_6'), head=dict(in_channels=320))
