_base_ = './repvit_distill_300e.py'

param_scheduler = dict(epochs=450)
train_cfg = dict(max_epochs=450)
