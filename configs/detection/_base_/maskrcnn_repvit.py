# The published Mask R-CNN recipe, without the architecture: 8 GPUs x 2 images, 12 epochs.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['repvit_mm'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='RepViT',
        # The published detectors take the last block but one of each stage, segmentation takes the last.
        feature_tap='penultimate',
        # The statistics stay those of ImageNet; the weights and biases of the BatchNorms learn.
        norm_eval=True))

# Weight decay reaches every parameter, biases and BatchNorms too.
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.05))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
