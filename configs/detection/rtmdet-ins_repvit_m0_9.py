# RTMDet-Ins on RepViT, for boxes and masks: mmdet's recipe for RTMDet-Ins-tiny, whose neck has the channels of m0_9's
# maps. It was not trained on COCO here, and no figure is published.
_base_ = 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['repvit_mm', 'repvit_mm.training'])
custom_hooks = [*_base_.custom_hooks, dict(type='ChannelsLast', on_gpu=False)]

model = dict(
    # CSPNeXt takes BGR, RepViT takes RGB.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
                           pad_size_divisor=32),  # the neck joins maps of neighbouring strides
    backbone=dict(
        _delete_=True,
        type='RepViT',
        arch='m0_9',
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='repvit://m0_9_distill_300e')),
    neck=dict(in_channels=[96, 192, 384]))

# The learning rate is for 8 GPUs x 32 images; mmdet's config says 16.
auto_scale_lr = dict(base_batch_size=256)
