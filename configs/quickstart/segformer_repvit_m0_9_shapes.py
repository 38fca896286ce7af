# SegFormer's head on RepViT, trained on the embedded data set from random weights on a CPU. To draw
# the data set: python tools/draw_shapes.py segmentation data/shapes_segmentation
_base_ = './fpn_repvit_m0_6_shapes.py'

model = dict(
    backbone=dict(arch='m0_9'),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[48, 96, 192, 384],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=9,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
