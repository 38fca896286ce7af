_base_ = './finetune_repvit_m0_9.py'

model = dict(
    backbone=dict(arch='m0_6', init_cfg=dict(checkpoint='repvit://m0_6_distill_300e')),
    head=dict(in_channels=320))
