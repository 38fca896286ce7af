# The published ImageNet recipe with a teacher: the recipe without one, and hard distillation from RegNetY-160.
_base_ = './repvit_300e.py'

model = dict(
    type='DistilledClassifier',
    teacher=dict(model='regnety_160.deit_in1k'),
    distill_type='hard',
    distill_weight=0.5,
    head=dict(distillation=True))
