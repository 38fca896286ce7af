# RTMDet-Ins, trained on the embedded data set from random weights on a CPU: the head of
# configs/detection/rtmdet-ins_repvit_m0_9.py in place of RTMDet's. To draw the data set:
# python tools/draw_shapes.py detection data/shapes_detection
_base_ = './rtmdet_repvit_m0_9_shapes.py'

model = dict(
    bbox_head=dict(
        _delete_=True,
        type='RTMDetInsSepBNHead',
        num_classes=len(_base_.classes),
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        share_conv=True,
        pred_kernel_size=1,
        act_cfg=dict(type='SiLU', inplace=True),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean')),
    test_cfg=dict(
        nms_pre=1000,
        score_thr=0.05,
        nms=dict(iou_threshold=0.6),
        max_per_img=100,
        mask_thr_binary=0.5))

with_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [_base_.train_pipeline[0], with_masks, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], with_masks, _base_.test_pipeline[3]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
