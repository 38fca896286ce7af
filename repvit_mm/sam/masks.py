"""From prompts to masks, and from masks to annotations and drawings."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import Sam

from ..io.drawing import palette
from .prompts import FOREGROUND, Prompt


class Mask(NamedTuple):
    """A segment of an image.

    Attributes:
        mask: (H, W) bool.
        score: Predicted IoU with the object.
    """

    mask: np.ndarray
    score: float

    def annotation(self) -> dict[str, Any]:
        """The mask as an annotation in COCO's format, run-length encoded."""
        rle = coco_mask.encode(np.asfortranarray(self.mask.astype(np.uint8)))
        return {'segmentation': {'size': list(self.mask.shape), 'counts': rle['counts'].decode()},
                'area': int(coco_mask.area(rle)), 'bbox': coco_mask.toBbox(rle).tolist(),
                'predicted_iou': self.score}


def segment(predictor: SamPredictor, prompt: Prompt) -> list[Mask]:
    """Segment the prompted object in the predictor's current image.

    Args:
        predictor: An object with ``original_size`` and ``predict`` as in ``SamPredictor``.
        prompt: Points or a box.

    Returns:
        Three masks for a single point, which is ambiguous (part or whole), else one; the best first.

    Raises:
        UserError: If the prompt does not fit the image.
    """
    height, width = predictor.original_size
    prompt = prompt.checked(width, height)
    points, labels, box = prompt.arrays()
    masks, scores, _ = predictor.predict(points, labels, box, multimask_output=prompt.is_ambiguous)
    order = np.argsort(-scores, kind='stable')
    return [Mask(masks[i], float(scores[i])) for i in order]


def segment_everything(sam: Sam, image: np.ndarray, **settings: Any) -> list[dict[str, Any]]:
    """Segment everything in an image with ``segment_anything``'s automatic mask generator.

    Args:
        sam: The model.
        image: (H, W, 3) uint8 RGB.
        settings: Settings of ``SamAutomaticMaskGenerator``, e.g. ``points_per_side``.

    Returns:
        Annotations in COCO's format, run-length encoded, the largest first.
    """
    generator = SamAutomaticMaskGenerator(sam, output_mode='coco_rle', **settings)
    return sorted(generator.generate(image), key=lambda annotation: -annotation['area'])


def decode(annotation: dict[str, Any]) -> np.ndarray:
    """The mask of an annotation whose segmentation is run-length encoded, (H, W) bool."""
    return coco_mask.decode(annotation['segmentation']).astype(bool)


def draw(image: np.ndarray, masks: Sequence[np.ndarray], *prompts: Prompt) -> np.ndarray:
    """Draw masks and prompts over an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool each, from back to front.
        prompts: Foreground points are green, background points red, boxes yellow.

    Returns:
        A new image of the same size.
    """
    drawn = image.copy()
    thick = max(1, round(min(image.shape[:2]) / 300))
    for mask, color in zip(masks, palette(len(masks)), strict=True):
        drawn[mask] = (0.5 * drawn[mask] + 0.5 * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, color, thick)
    for prompt in prompts:
        _draw_prompt(drawn, prompt, thick)
    return drawn


def _draw_prompt(drawn: np.ndarray, prompt: Prompt, thick: int) -> None:
    if prompt.box is not None:
        x1, y1, x2, y2 = (round(value) for value in prompt.box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), (255, 220, 0), thick + 1)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        color = (0, 200, 0) if label == FOREGROUND else (220, 0, 0)
        cv2.circle(drawn, (round(x), round(y)), 4 * thick, (255, 255, 255), -1)
        cv2.circle(drawn, (round(x), round(y)), 3 * thick, color, -1)
