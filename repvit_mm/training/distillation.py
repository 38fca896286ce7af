"""Training a classifier with a teacher."""
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from ..errors import ConfigError
from .head import RepViTClsHead
from .teacher import Teacher

#: Values of ``distill_type``: the targets of the head's second layer.
DISTILL_TYPES = ('hard', 'soft')


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """Classifier whose head has a second layer that learns from a teacher (https://arxiv.org/abs/2012.12877).

    The loss is ``(1 - distill_weight)`` times the loss of the head's first layer on the labels, plus
    ``distill_weight`` times the loss of the second layer on the teacher's scores: cross-entropy with the teacher's
    best class (``'hard'``), or the Kullback-Leibler divergence of both softened distributions, times the squared
    temperature, averaged over the batch (``'soft'``). The teacher sees the same images, after mixup or CutMix.

    The teacher is not part of the model: it is not saved, averaged or counted, and never in training mode. It is built
    when training starts; evaluation and inference do not need it.

    Args:
        backbone: Config of the backbone.
        head: Config of a :class:`RepViTClsHead` with ``distillation=True``.
        teacher: Settings of a :class:`Teacher`: ``model`` and optionally ``checkpoint``.
        distill_type: One of :data:`DISTILL_TYPES`.
        distill_weight: Weight of the teacher in the loss, 0 to 1.
        temperature: Temperature of both distributions, for ``'soft'``.
        neck: Config of a neck, if any.
        pretrained: See :class:`mmpretrain.models.ImageClassifier`, like the following.
        train_cfg: Mixup and CutMix.
        data_preprocessor: Config of the preprocessor.
        init_cfg: Initialisation.

    Raises:
        ConfigError: For an invalid setting or combination of settings.
    """

    def __init__(self, backbone: Mapping, head: Mapping, teacher: Mapping | None = None, distill_type: str = 'hard',
                 distill_weight: float = 0.5, temperature: float = 1., neck: Mapping | None = None,
                 pretrained: str | None = None, train_cfg: Mapping | None = None,
                 data_preprocessor: Mapping | None = None, init_cfg: Mapping | None = None):
        super().__init__(backbone, neck, head, pretrained, train_cfg, data_preprocessor, init_cfg)
        if distill_type not in DISTILL_TYPES:
            raise ConfigError(f'distill_type={distill_type!r} must be one of {", ".join(DISTILL_TYPES)}')
        if not 0 <= distill_weight <= 1:
            raise ConfigError(f'distill_weight={distill_weight} must be between 0 and 1')
        if temperature <= 0:
            raise ConfigError(f'temperature={temperature} must be positive')
        if not (isinstance(self.head, RepViTClsHead) and self.head.distillation):
            raise ConfigError('a teacher needs a head of type RepViTClsHead with distillation=True')
        self.distill_type, self.distill_weight, self.temperature = distill_type, distill_weight, temperature
        self.teacher = None if teacher is None else Teacher(**teacher)

    def init_weights(self) -> None:
        """Initialise the weights, and build the teacher, since training starts with this call."""
        super().init_weights()
        self._require_teacher().build(self.head.num_classes)

    def _require_teacher(self) -> Teacher:
        if self.teacher is None:
            raise ConfigError('DistilledClassifier needs model.teacher; without one, train an ImageClassifier')
        return self.teacher

    def loss(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: (N, 3, H, W), normalised and mixed.
            data_samples: Labels, or scores if images are mixed.
        """
        scores, scores_dist = self.head.both_scores(self.extract_feat(inputs))
        on_labels = self.head._get_loss(scores, data_samples)['loss']
        taught = self._require_teacher().scores(inputs, self.head.num_classes, self.data_preprocessor)
        return {'loss_labels': (1 - self.distill_weight) * on_labels,
                'loss_teacher': self.distill_weight * self._distill_loss(scores_dist, taught)}

    def _distill_loss(self, scores: Tensor, taught: Tensor) -> Tensor:
        if self.distill_type == 'hard':
            return F.cross_entropy(scores, taught.argmax(1))
        t = self.temperature
        return F.kl_div(F.log_softmax(scores / t, 1), F.log_softmax(taught / t, 1),
                        reduction='batchmean', log_target=True) * t ** 2
