"""Small stand-ins for the models whose checkpoints are published."""
import torch
from oracles import TINY, randomise_norms
from torch import nn

from repvit_mm import RepViT, fuse
from repvit_mm.network.layers import BNLinear


class Head(nn.Module):
    """The parameters of a classification head: one or two layers."""

    def __init__(self, channels, classes, distillation=False, deploy=False):
        super().__init__()
        self.fc = nn.Linear(channels, classes) if deploy else BNLinear(channels, classes)
        if distillation and not deploy:
            self.fc_dist = BNLinear(channels, classes)


class Classifier(nn.Module):
    """Named like mmpretrain's ImageClassifier."""

    def __init__(self, arch=TINY, classes=1000, distillation=True, deploy=False, **settings):
        super().__init__()
        self.backbone = RepViT(arch, deploy=deploy, **settings)
        self.head = Head(self.backbone.out_channels[-1], classes, distillation, deploy)

    def forward(self, x):
        features = self.backbone(x)[-1].mean((2, 3))
        scores = [layer(features) for layer in self.head.children()]
        return sum(scores) / len(scores)


class Detector(nn.Module):
    """A backbone with something before and after it that is none of ours."""

    def __init__(self, arch=TINY, **settings):
        super().__init__()
        self.backbone = RepViT(arch, **settings)
        self.neck = nn.Conv2d(self.backbone.out_channels[-1], 8, 1)
        self.bbox_head = nn.ModuleDict({'fc_cls': nn.Linear(8, 3)})

    def forward(self, x):
        return self.bbox_head['fc_cls'](self.neck(self.backbone(x)[-1]).mean((2, 3)))


def trained(model, seed=0):
    """``model`` in evaluation mode, with values that no other seed gives."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return randomise_norms(model, seed).eval()


def values(model):
    """A copy of everything in it, to see later whether anything changed."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


__all__ = ['TINY', 'Classifier', 'Detector', 'RepViT', 'fuse', 'is_same', 'trained', 'values']
