"""Small classifiers for the tests, and timm's model with the same weights."""
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from oracles import TINY, randomise_norms
from timm.models.repvit import RepVit

import repvit_mm.training.classification  # noqa: F401  registers
from repvit_mm.checkpoints import convert_state_dict

CLASSES = 7
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


def build(cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(cfg)


def config(distillation=True, arch=TINY, classes=CLASSES, **settings):
    return dict(
        type='DistilledClassifier' if distillation else 'ImageClassifier',
        backbone=dict(type='RepViT', arch=arch, out_indices=(3, )),
        head=dict(
            type='RepViTClsHead',
            num_classes=classes,
            in_channels=TINY['widths'][-1],
            distillation=distillation,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
        data_preprocessor=dict(type='ErasingDataPreprocessor', num_classes=classes, **IMAGENET),
        **settings)


def classifier(distillation=True, seed=0, **settings):
    torch.manual_seed(seed)
    model = build(config(distillation, **settings))
    for layer in (model.head.fc, model.head.fc_dist):
        if layer is not None:
            torch.nn.init.normal_(layer.linear.weight, std=0.5)
            torch.nn.init.normal_(layer.linear.bias)
    return randomise_norms(model, seed)


def timm_twin(model):
    """timm's model, in the same mode and with the same weights."""
    twin = RepVit(embed_dim=TINY['widths'], depth=TINY['depths'], num_classes=model.head.num_classes,
                  distillation=model.head.distillation)
    twin.to(next(model.parameters()).dtype)
    twin.load_state_dict(convert_state_dict(model.state_dict(), to='timm'))
    return twin.train(model.training)


def samples(labels=None, scores=None):
    if scores is not None:
        return [DataSample().set_gt_score(score) for score in scores]
    return [DataSample().set_gt_label(label) for label in labels]
