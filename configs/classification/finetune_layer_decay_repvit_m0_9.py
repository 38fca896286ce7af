# Fine-tuning on few images: each layer learns at 0.9 of the rate of the layer after it.
#   python tools/train.py configs/classification/finetune_layer_decay_repvit_m0_9.py --data-root DIR
_base_ = './finetune_repvit_m0_9.py'

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
