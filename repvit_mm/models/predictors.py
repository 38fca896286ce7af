"""The toolboxes' Inferencers behind one interface: pictures in, drawings and plain values out."""
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from torch import nn

from ..errors import CheckpointError, ConfigError
from ..network.fusion import fuse
from ..toolboxes import toolbox_of
from ..toolboxes.classification import MULTI_LABEL
from .names import find_model, get_model

#: The most probable classes of a picture that are reported.
TOP = 5


class Predictor:
    """A model that predicts from pictures.

    Args:
        model: See :func:`repvit_mm.get_model`; on its device.
        threshold: Objects, and labels of a picture that may have several, need a higher score.

    Attributes:
        task: Name of the task.
        classes: Names of the classes; None if they are unknown.
    """

    task = ''

    def __init__(self, model: nn.Module, threshold: float):
        self.classes = model.dataset_meta['classes']
        self.threshold = threshold

    def predict(self, pictures: Sequence[np.ndarray]) -> Sequence[Any]:
        """RGB, uint8, each (H, W, 3) -> the toolbox's sample for each picture."""
        # Toolboxes take arrays to be BGR, as OpenCV reads them.
        (batch,) = self.inferencer.preprocess([picture[..., ::-1].copy() for picture in pictures], len(pictures))
        return self.inferencer.forward(batch)

    def draw(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """Draw a prediction over its picture, RGB, uint8."""
        raise NotImplementedError

    def draw_frame(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """Draw a prediction over a frame of a video, whose size must not change."""
        return self.draw(picture, sample)

    def describe(self, sample: Any) -> dict[str, Any]:
        """A prediction as values for JSON."""
        raise NotImplementedError

    def summary(self, description: Mapping[str, Any]) -> str:
        """The same in a few words."""
        raise NotImplementedError

    def labels(self, sample: Any) -> np.ndarray | None:
        """The class of every pixel, uint8 or uint16 (H, W), if the model predicts that."""
        return None

    def name_of(self, label: int) -> str:
        """Name of a class, or its number."""
        return self.classes[label] if self.classes and label < len(self.classes) else f'class {label}'


class Detector(Predictor):
    """Boxes, and masks if the model has them, with mmdet's DetInferencer."""

    task = 'detection'

    def __init__(self, model: nn.Module, threshold: float):
        from mmdet.apis import DetInferencer
        super().__init__(model, threshold)
        model.cfg.visualizer = dict(  # without the backends of a training
            type='DetLocalVisualizer', name='infer', alpha=0.6, line_width=2)
        self.inferencer = _with_model(DetInferencer, model)(model.cfg)

    def predict(self, pictures: Sequence[np.ndarray]) -> Sequence[Any]:
        """RGB, uint8, each (H, W, 3) -> samples with the objects above the threshold."""
        (_, batch), = self.inferencer.preprocess([picture[..., ::-1].copy() for picture in pictures], len(pictures))
        samples = self.inferencer.forward(batch)
        for sample in samples:
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores > self.threshold].cpu()
        return samples

    def draw(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """Boxes, masks and names over the picture."""
        drawn, = self.inferencer.visualize([picture], [sample], return_vis=True, pred_score_thr=self.threshold)
        return drawn

    def describe(self, sample: Any) -> dict[str, Any]:
        """``objects``: class, score, box (left, top, right, bottom in pixels) and mask (COCO's RLE)."""
        found = self.inferencer.pred2dict(sample)
        masks = found.get('masks') or [None] * len(found['labels'])
        return {'objects': [
            {'class': self.name_of(label), 'label': label, 'score': score, 'box': box,
             **({'mask': mask} if mask else {})}
            for label, score, box, mask in zip(found['labels'], found['scores'], found['bboxes'], masks, strict=True)]}

    def summary(self, description: Mapping[str, Any]) -> str:
        """``2 circle, 1 star``."""
        counts = Counter(found['class'] for found in description['objects'])
        return ', '.join(f'{number} {name}' for name, number in counts.most_common()) or 'nothing'


class Segmentor(Predictor):
    """The class of every pixel, with mmseg's MMSegInferencer."""

    task = 'segmentation'

    def __init__(self, model: nn.Module, threshold: float):
        from mmseg.apis import MMSegInferencer
        super().__init__(model, threshold)
        model.cfg.visualizer = dict(type='SegLocalVisualizer', name='infer')
        self.meta = model.dataset_meta
        self.inferencer = _with_model(MMSegInferencer, model)(model.cfg)

    def draw(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """The picture, the classes beside it, and a legend."""
        from ..toolboxes.segmentation_pictures import draw_segmentation
        return draw_segmentation(picture, {'prediction': self.labels(sample)}, self.classes, self.meta['palette'])

    def draw_frame(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """The classes over the frame, with their names; as high and wide as the frame."""
        drawn, = self.inferencer.visualize([picture], [sample], return_vis=True, opacity=0.6)
        return drawn

    def describe(self, sample: Any) -> dict[str, Any]:
        """``classes``: those in the picture and their share of its pixels, largest first."""
        labels, counts = np.unique(self.labels(sample), return_counts=True)
        shares = sorted(zip((counts / counts.sum()).tolist(), labels.tolist(), strict=True), reverse=True)
        return {'classes': [{'class': self.name_of(label), 'label': label, 'share': share} for share, label in shares]}

    def summary(self, description: Mapping[str, Any]) -> str:
        """``71% background, 12% star``."""
        return ', '.join(f'{found["share"]:.0%} {found["class"]}' for found in description['classes'][:TOP])

    def labels(self, sample: Any) -> np.ndarray:
        """The class of every pixel, uint8 or uint16 (H, W)."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        return labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)


class Classifier(Predictor):
    """The class of the picture, or all of its labels, with mmpretrain's ImageClassificationInferencer."""

    task = 'classification'

    def __init__(self, model: nn.Module, threshold: float):
        from mmpretrain.apis import ImageClassificationInferencer
        from mmpretrain.visualization import UniversalVisualizer
        super().__init__(model, threshold)
        self.several = toolbox_of(model.cfg).task_of(model) is MULTI_LABEL
        if self.several:
            model.head.thr = threshold  # what is drawn is what is reported
        self.inferencer = ImageClassificationInferencer(model)
        self.visualizer = UniversalVisualizer(name='infer')

    def draw(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """The class and its score over the picture, which is enlarged where it is small."""
        return self._draw(picture, sample, resize=max(320, min(picture.shape[:2])))

    def draw_frame(self, picture: np.ndarray, sample: Any) -> np.ndarray:
        """The class and its score over a frame."""
        return self._draw(picture, sample, resize=None)

    def _draw(self, picture: np.ndarray, sample: Any, resize: int | None) -> np.ndarray:
        return self.visualizer.visualize_cls(picture, sample, self.classes, draw_gt=False, resize=resize)

    def describe(self, sample: Any) -> dict[str, Any]:
        """``classes`` and their scores, best first: the most probable ones, or the labels of the picture."""
        number = len(sample.pred_label) if self.several else min(TOP, len(sample.pred_score))
        scores, labels = sample.pred_score.cpu().topk(number)
        return {'classes': [{'class': self.name_of(label), 'label': label, 'score': score}
                            for score, label in zip(scores.tolist(), labels.tolist(), strict=True)]}

    def summary(self, description: Mapping[str, Any]) -> str:
        """``star 0.98``, or ``star 0.98, ring 0.71``."""
        shown = description['classes'] if self.several else description['classes'][:1]
        return ', '.join(f'{found["class"]} {found["score"]:.2f}' for found in shown) or 'nothing'


#: Scope of a toolbox -> what predicts with its models.
PREDICTORS = {'mmdet': Detector, 'mmseg': Segmentor, 'mmpretrain': Classifier}


def load_predictor(model: str, checkpoint: str | None = None, device: str | None = None,
                   threshold: float = 0.3) -> Predictor:
    """Load a model, fused.

    Args:
        model: What :func:`repvit_mm.get_model` takes.
        checkpoint: Its weights; by default those that ``model`` names, or the published ones.
        device: Such as ``cuda:1``; by default the GPU if there is one.
        threshold: See :class:`Predictor`.

    Raises:
        ConfigError: If there is no such model or device, or the model is a backbone alone.
        CheckpointError: If there are no weights, or they do not fit.
    """
    named = find_model(model)
    if Path(named.source).suffix == '':
        raise ConfigError(f'{model} is a backbone alone, which predicts nothing; name a detector, a segmentor or a '
                          'classifier, such as maskrcnn_repvit_m1_1')
    if checkpoint is None and named.weights is None:
        raise CheckpointError(f'no weights are published for {model}; give yours with --checkpoint')
    device = device or get_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f'--device {device}: torch has no such device on this machine') from error
    built = fuse(get_model(named.source, checkpoint or named.weights), inplace=True).to(device)
    return PREDICTORS[toolbox_of(built.cfg).scope](built, threshold)


def _with_model(inferencer: type, model: nn.Module) -> type:
    """An Inferencer around a model that is loaded already: its own loader lets missing weights pass.

    It also takes mmengine's usual way to make a batch, which it would look for in the toolbox, with a warning.
    """
    return type(inferencer.__name__, (inferencer,), {
        '_init_model': lambda self, *args: model, '_init_collate': lambda self, cfg: pseudo_collate})
