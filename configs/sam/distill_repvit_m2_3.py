_base_ = './_base_/distill_repvit.py'
