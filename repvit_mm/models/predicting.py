"""Predict on images with a model of any toolbox: plain values, and drawings of them."""
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from torch import nn

from ..errors import CheckpointError, ConfigError
from ..io.drawing import draw_labels, draw_lines, draw_objects, palette
from ..io.images import MOST_PIXELS
from ..network.fusion import fuse
from ..toolboxes import toolbox_of
from ..toolboxes.classification import MULTI_LABEL
from ..toolboxes.datasets import datasets_of
from .inference import find_model, get_model

#: The most probable classes of an image that are reported, and of these, drawn.
TOP, SHOWN = 5, 3
#: Short edge in pixels to which small images are enlarged in drawings.
SMALL = 320
#: Limits for the size of an image: pixels that the network gets if nothing resizes it, and bytes of the output.
LARGEST_INPUT, LARGEST_OUTPUT = 40_000_000, 8 << 30


class Prediction(NamedTuple):
    """A prediction for an image.

    Attributes:
        values: The prediction for JSON.
        labels: The class of every pixel, uint8 or uint16 (H, W), of a segmentation.
    """

    values: dict[str, Any]
    labels: np.ndarray | None = None


class Predictor:
    """A model that predicts from images.

    Args:
        model: See :func:`repvit_mm.get_model`; on its device.
        threshold: Objects, and labels of an image that may have several, need a higher score.

    Attributes:
        task: Name of the task.
        classes: Names of the classes; None if they are unknown.
        most_pixels: Larger images would not fit in memory.
    """

    task = ''

    def __init__(self, model: nn.Module, threshold: float):
        self.model, self.threshold, self.classes = model, threshold, model.dataset_meta['classes']
        _, dataset = next(datasets_of(model.cfg, ['test_dataloader']))
        with DefaultScope.overwrite_default_scope(toolbox_of(model.cfg).scope):
            resizes = re.search('Resize|Crop', str([transform['type'] for transform in dataset['pipeline']]))
            self.most_pixels = min(MOST_PIXELS if resizes else LARGEST_INPUT, LARGEST_OUTPUT // self.bytes_per_pixel())
            self.pipeline = Compose([transform for transform in dataset['pipeline']
                                     if not re.search(r'Load(Image|Annotations)', str(transform['type']))])

    def bytes_per_pixel(self) -> int:
        """Memory of an output in the size of the image."""
        return 1

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """RGB, uint8, each (H, W, 3) -> the prediction for each.

        Images of the same size run as a batch. Others do not, because they would be padded, and squeeze-and-excitation
        averages over the padding.
        """
        batches, results = defaultdict(list), {}
        for i, image in enumerate(images):
            shape = image.shape[:2]
            packed = self.pipeline({'img': image[..., ::-1].copy(), 'img_shape': shape, 'ori_shape': shape})  # BGR
            batches[packed['inputs'].shape].append((i, packed))
        for batch in batches.values():
            samples = self.model.test_step(pseudo_collate([packed for _, packed in batch]))
            results.update((i, self.describe(sample)) for (i, _), sample in zip(batch, samples, strict=True))
        return [results[i] for i in range(len(images))]

    def describe(self, sample: Any) -> Prediction:
        """The toolbox's sample -> plain values."""
        raise NotImplementedError

    def draw(self, image: np.ndarray, prediction: Prediction, is_frame: bool = False) -> np.ndarray:
        """Draw a prediction over its image, RGB, uint8; a frame of a video keeps its size."""
        raise NotImplementedError

    def summary(self, values: Mapping[str, Any]) -> str:
        """The values in a few words."""
        raise NotImplementedError

    def name_of(self, label: int) -> str:
        """Name of a class, or its number."""
        return self.classes[label] if self.classes and label < len(self.classes) else f'class {label}'


class Detector(Predictor):
    """Boxes, and masks if the model has them."""

    task = 'detection'

    def bytes_per_pixel(self) -> int:
        """A byte for each mask of the most objects that mmdet's configs keep."""
        return 100 if 'mask_head' in str(self.model.cfg.model) else 1

    def describe(self, sample: Any) -> Prediction:
        """``objects``: class, score, box (left, top, right, bottom in pixels) and mask (run lengths of COCO)."""
        from mmdet.structures.mask import encode_mask_results
        found = sample.pred_instances
        found = found[found.scores > self.threshold].cpu()
        objects = [{'class': self.name_of(label), 'label': label, 'score': score, 'box': box} for label, score, box in
                   zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), strict=True)]
        for item, mask in zip(objects, encode_mask_results(found.masks) if 'masks' in found else (), strict=False):
            item['mask'] = {'size': mask['size'], 'counts': mask['counts'].decode()}
        return Prediction({'objects': objects})

    def draw(self, image: np.ndarray, prediction: Prediction, is_frame: bool = False) -> np.ndarray:
        """Boxes, masks and names over the image."""
        objects = prediction.values['objects']
        colours = palette(1 + max([len(self.classes or ()), *(item['label'] for item in objects)]))
        return draw_objects(image, objects, colours, 0 if is_frame else SMALL)

    def summary(self, values: Mapping[str, Any]) -> str:
        """``2 circle, 1 star``."""
        counts = Counter(found['class'] for found in values['objects'])
        return ', '.join(f'{number} {name}' for name, number in counts.most_common()) or 'nothing'


class Segmentor(Predictor):
    """The class of every pixel."""

    task = 'segmentation'

    def bytes_per_pixel(self) -> int:
        """A score for each class."""
        return 4 * max(1, len(self.classes or ()))

    def describe(self, sample: Any) -> Prediction:
        """``classes``: those in the image and their share of its pixels, largest first."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        found, counts = np.unique(labels, return_counts=True)
        shares = sorted(zip((counts / counts.sum()).tolist(), found.tolist(), strict=True), reverse=True)
        return Prediction({'classes': [{'class': self.name_of(label), 'label': label, 'share': share}
                                       for share, label in shares]}, labels)

    def draw(self, image: np.ndarray, prediction: Prediction, is_frame: bool = False) -> np.ndarray:
        """The classes over the image."""
        return draw_labels(image, prediction.labels, self.classes, self.model.dataset_meta['palette'],
                           0 if is_frame else SMALL)

    def summary(self, values: Mapping[str, Any]) -> str:
        """``71% background, 12% star``."""
        return ', '.join(f'{found["share"]:.0%} {found["class"]}' for found in values['classes'][:TOP])


class Classifier(Predictor):
    """The class of the image, or all of its labels."""

    task = 'classification'

    def __init__(self, model: nn.Module, threshold: float):
        super().__init__(model, threshold)
        self.several = toolbox_of(model.cfg).task_of(model) is MULTI_LABEL

    def describe(self, sample: Any) -> Prediction:
        """``classes`` and their scores, best first: the most probable ones, or the labels of the image."""
        scores, labels = sample.pred_score.cpu().sort(descending=True)
        number = int((scores > self.threshold).sum()) if self.several else TOP
        best = zip(scores[:number].tolist(), labels[:number].tolist(), strict=True)
        return Prediction({'classes': [{'class': self.name_of(label), 'label': label, 'score': score}
                                       for score, label in best]})

    def draw(self, image: np.ndarray, prediction: Prediction, is_frame: bool = False) -> np.ndarray:
        """The best classes and their scores over the image, which is enlarged if it is small and no frame."""
        if not is_frame and min(image.shape[:2]) < SMALL:
            scale = SMALL / min(image.shape[:2])
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        shown = prediction.values['classes'] if self.several else prediction.values['classes'][:SHOWN]
        return draw_lines(image, [f'{found["class"]} {found["score"]:.2f}' for found in shown],
                          [palette(1)[0], *[(90, 94, 104)] * len(shown)])

    def summary(self, values: Mapping[str, Any]) -> str:
        """``star 0.98``, or ``star 0.98, ring 0.71``."""
        shown = values['classes'] if self.several else values['classes'][:1]
        return ', '.join(f'{found["class"]} {found["score"]:.2f}' for found in shown) or 'nothing'


#: Scope of a toolbox -> the class that predicts with its models.
PREDICTORS = {'mmdet': Detector, 'mmseg': Segmentor, 'mmpretrain': Classifier}


def load_predictor(model: str, checkpoint: str | None = None, device: str | None = None,
                   threshold: float = 0.3) -> Predictor:
    """Load a model, fused.

    Args:
        model: As for :func:`repvit_mm.get_model`.
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
        raise CheckpointError(f'no weights are published for {model}; give yours with --checkpoint, or train them: '
                              f'repvit-mm train {model}')
    found = find_device(device)
    built = fuse(get_model(named.source, checkpoint or named.weights), inplace=True).to(found)
    return PREDICTORS[toolbox_of(built.cfg).scope](built, threshold)


def find_device(name: str | None) -> torch.device:
    """A device; by default the GPU if there is one.

    Raises:
        ConfigError: If torch has none of this name.
    """
    name = name or get_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f'--device {name}: torch has no such device on this machine') from error
