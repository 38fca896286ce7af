# The published Mask R-CNN recipe, without the architecture: 8 GPUs x 2 images, 12 epochs.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training'])
custom_hooks = [dict(type='ChannelsLast', on_gpu=False)]

model = dict(
    backbone=dict(
        _delete_=True,
        type='RepViT',
        # The published detectors use the last block but one of each stage, segmentation the last.
        feature_tap='penultimate',
        # BatchNorm statistics stay those of ImageNet; BatchNorm weights and biases are trained.
        norm_eval=True))

# Weight decay applies to every parameter, including biases and BatchNorms.
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.05))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
