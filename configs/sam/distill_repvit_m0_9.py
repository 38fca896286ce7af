_base_ = './_base_/distill_repvit.py'

model = dict(student=dict(arch='m0_9'))
