# Several labels for each image, from DATA_ROOT/annotations/train.json and val.json (docs/own_data.md). No figure is
# published.
#   python tools/train.py configs/classification/multilabel_repvit_m0_9.py --data-root DIR
_base_ = './finetune_repvit_m0_9.py'

model = dict(
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        _delete_=True,
        type='MultiLabelLinearClsHead',
        num_classes=20,  # the tools set it to the number of classes in the files
        in_channels=384))

data_root = 'data/multilabel'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiLabelDataset',
        data_root=data_root,
        data_prefix='images',
        ann_file='annotations/train.json',
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiLabelDataset',
        data_root=data_root,
        data_prefix='images',
        ann_file='annotations/val.json',
        pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

val_evaluator = [dict(type='AveragePrecision'), dict(type='MultiLabelMetric', thr=0.5)]
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='multi-label/mAP'))
