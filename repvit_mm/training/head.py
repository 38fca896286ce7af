"""The classifier on top of RepViT."""
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from mmpretrain.models import ClsHead
from torch import Tensor, nn

from ..checkpoints.forms import unfold_in
from ..errors import ConfigError
from ..network.fusion import Fusible, fusion_dtype, make_layer
from ..network.layers import BNLinear


@MODELS.register_module()
class RepViTClsHead(ClsHead, Fusible):
    """BatchNorm and linear layer on the pooled features, twice for distillation.

    The scores are the mean of both layers, except in the loss of :class:`DistilledClassifier`, where the second layer
    learns from the teacher. The fused form is one linear layer.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the features, ``backbone.out_channels[-1]``.
        distillation: Whether to add the second layer, ``fc_dist``.
        deploy: Build the fused form, for fused weights.
        loss: Config of the loss on the labels.
        topk: Accuracies that ``cal_acc`` computes.
        cal_acc: Log the accuracy on the training batches; pointless with mixup or CutMix.
        init_cfg: See :class:`mmengine.model.BaseModule`. By default, weights are initialised as published.

    Raises:
        ConfigError: If ``num_classes`` or ``in_channels`` is not positive.
    """

    def __init__(self, num_classes: int, in_channels: int, distillation: bool = False, deploy: bool = False,
                 loss: Mapping | nn.Module = {'type': 'CrossEntropyLoss', 'loss_weight': 1.},  # noqa: B006
                 topk: int | Sequence[int] = 1, cal_acc: bool = False, init_cfg: Mapping | None = None):
        if not (isinstance(num_classes, int) and num_classes > 0):
            raise ConfigError(f'head.num_classes={num_classes} must be a positive integer')
        if not (isinstance(in_channels, int) and in_channels > 0):
            raise ConfigError(f'head.in_channels={in_channels} must be a positive integer')
        topk = (topk,) if isinstance(topk, int) else tuple(topk)
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.distillation, self.deploy = distillation, deploy
        self.fc = nn.Linear(in_channels, num_classes) if deploy else BNLinear(in_channels, num_classes)
        self.fc_dist = BNLinear(in_channels, num_classes) if distillation and not deploy else None

    def both_scores(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores, (N, num_classes), of the layer for labels, and of the layer for the teacher if there is one."""
        features = self.pre_logits(feats)
        return self.fc(features), None if self.fc_dist is None else self.fc_dist(features)

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """The pooled features, (N, in_channels)."""
        features = feats[-1]
        return features.mean((2, 3)) if features.ndim == 4 else features

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone or pooled features -> scores before the softmax, (N, num_classes)."""
        scores, scores_dist = self.both_scores(feats)
        return scores if scores_dist is None else (scores + scores_dist) / 2

    def to_own_form(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        if self.can_fuse():
            unfold_in(state_dict, f'{prefix}fc.', prefix, self.unfolded)

    def _layers(self) -> list[BNLinear]:
        return [layer for layer in (self.fc, self.fc_dist) if isinstance(layer, BNLinear)]

    def norms(self) -> list[nn.Module]:
        return [layer.norm for layer in self._layers()]

    def can_fuse(self) -> bool:
        return bool(self._layers()) and super().can_fuse()

    def folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weights, biases = zip(*(layer.folded(dtype) for layer in self._layers()), strict=True)
        return sum(weights) / len(weights), sum(biases) / len(biases)

    def unfolded(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        return {f'{name}.{key}': value for name, layer in self.named_children() if layer in self._layers()
                for key, value in layer.unfolded(weight, bias).items()}

    def fuse(self) -> 'RepViTClsHead':
        like = self.fc.linear
        fused = RepViTClsHead(self.num_classes, self.in_channels, self.distillation, True, self.loss_module, self.topk,
                              self.cal_acc, self.init_cfg)
        fused.fc = make_layer(like, *self.folded(fusion_dtype(like.weight)))
        return fused.train(self.training)
