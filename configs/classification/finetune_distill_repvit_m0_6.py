# Fine-tuning with a teacher that was fine-tuned before on the same images. Name the config and the checkpoint
# in the work directory of its training: python tools/train.py
# configs/classification/finetune_distill_repvit_m0_6.py --data-root DIR --cfg-options
# model.teacher.model=work_dirs/finetune_repvit_m0_9/finetune_repvit_m0_9.py
# model.teacher.checkpoint=work_dirs/finetune_repvit_m0_9/epoch_30.pth
_base_ = './finetune_repvit_m0_6.py'

model = dict(
    type='DistilledClassifier',
    teacher=dict(
        model='work_dirs/finetune_repvit_m0_9/finetune_repvit_m0_9.py',
        checkpoint='work_dirs/finetune_repvit_m0_9/epoch_30.pth'),
    distill_type='hard',
    distill_weight=0.5,
    head=dict(distillation=True))
