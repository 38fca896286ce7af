"""Zero-shot instance segmentation: masks from boxes and their COCO AP, as in the SAM paper (section 7.4)."""
import contextlib
import copy
import io
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from ..errors import DatasetError, UserError
from ..io.coco import read_coco
from ..io.files import read_json
from ..io.images import read_image
from .masks import Mask

#: Name -> position in ``COCOeval.stats``.
METRICS = {'AP': 0, 'AP50': 1, 'AP75': 2, 'AP_S': 3, 'AP_M': 4, 'AP_L': 5}
_BOXES_AT_ONCE = 32


def load_annotations(path: str | Path, folder: str | Path) -> COCO:
    """Read annotations in COCO's format.

    Args:
        path: The file.
        folder: Folder of the images.

    Raises:
        DatasetError: If the file is missing, has another format, or does not fit the images.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetError(f'the annotations {path} do not exist; expected a file like instances_val2017.json of COCO')
    content, notes = read_coco(path, folder)
    for note in notes:
        print_log(note, 'current', logging.WARNING)
    if not content['images'] or not content.get('annotations'):
        raise DatasetError(f'{path}: images or annotations: there are none to evaluate')
    for number, annotation in enumerate(content['annotations']):
        if not annotation.get('segmentation'):
            raise DatasetError(f'{path}: annotations: entry {number} has no segmentation')
        if not all(map(math.isfinite, annotation['bbox'])):
            raise DatasetError(f'{path}: annotations: entry {number} has the box {annotation["bbox"]}; expected finite '
                               'numbers')
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco.createIndex()
    return coco


def ground_truth_boxes(coco: COCO) -> dict[int, list[dict[str, Any]]]:
    """Annotated objects as prompts, without crowds: image id -> dicts of ``category_id`` and ``bbox``."""
    boxes = defaultdict(list)
    for annotation in coco.dataset['annotations']:
        if not annotation.get('iscrowd') and min(annotation['bbox'][2:]) > 0:
            boxes[annotation['image_id']].append(
                {'category_id': annotation['category_id'], 'bbox': annotation['bbox']})
    return boxes


def detected_boxes(path: str | Path, coco: COCO, score_thresh: float = 0.) -> dict[int, list[dict[str, Any]]]:
    """A detector's results as prompts, from a file in COCO's result format.

    Args:
        path: A list of dicts of ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.
        coco: The annotations of the same images.
        score_thresh: Boxes with a lower score are dropped.

    Raises:
        DatasetError: If the file is missing, has another format, or is for other images.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetError(f"the results {path} do not exist; expected a detector's results.bbox.json")
    results = read_json(path)
    boxes = defaultdict(list)
    for number, result in enumerate(results if isinstance(results, list) else [None]):
        if not _is_result(result):
            raise DatasetError(f"{path} is not in COCO's result format: entry {number} needs image_id, category_id, "
                               'bbox and score; a box is four finite numbers, a score one')
        for key, known, what in (('image_id', coco.imgs, 'image'), ('category_id', coco.cats, 'category')):
            if result[key] not in known:
                raise DatasetError(f'{path} has results for {what} {result[key]}, which is not in the annotations')
        if result['score'] >= score_thresh and min(result['bbox'][2:]) > 0:
            boxes[result['image_id']].append(dict(result))
    return boxes


def _is_result(result: Any) -> bool:
    try:
        return (len(result['bbox']) == 4 and all(map(math.isfinite, (*result['bbox'], result['score'])))
                and isinstance(result['image_id'], int | str) and isinstance(result['category_id'], int | str))
    except (KeyError, TypeError):
        return False


@torch.no_grad()
def masks_of_boxes(predictor: SamPredictor, boxes: np.ndarray) -> list[Mask]:
    """One mask for each box, (N, 4) as x1, y1, x2, y2, in the predictor's current picture."""
    masks = []
    for start in range(0, len(boxes), _BOXES_AT_ONCE):
        inputs = predictor.transform.apply_boxes(boxes[start:start + _BOXES_AT_ONCE], predictor.original_size)
        found, scores, _ = predictor.predict_torch(
            None, None, torch.as_tensor(inputs, dtype=torch.float, device=predictor.device), multimask_output=False)
        masks += [Mask(mask, score) for mask, score in
                  zip(found[:, 0].cpu().numpy(), scores[:, 0].tolist(), strict=True)]
    return masks


def segment_instances(sam: Sam, coco: COCO, folder: str | Path, prompts: Mapping[int, Sequence[dict[str, Any]]],
                      image_ids: Sequence[int],
                      on_progress: Callable[[int], None] = lambda count: None) -> list[dict[str, Any]]:
    """Segment the instances in boxes.

    Args:
        sam: The model.
        coco: The annotations.
        folder: Folder of the pictures.
        prompts: Image id -> dicts with ``category_id``, ``bbox`` and, from a detector, ``score``.
        image_ids: The images to segment.
        on_progress: Called with the number of further images that are done.

    Returns:
        Results in COCO's format; the score is the detector's or, without a detector, the predicted IoU.

    Raises:
        UserError: If a picture is missing or damaged.
    """
    predictor, results = SamPredictor(sam), []
    for image_id in image_ids:
        if prompts.get(image_id):
            path, entry = Path(folder, coco.imgs[image_id]['file_name']), coco.imgs[image_id]
            image = read_image(path)
            if image.shape[:2] != (entry['height'], entry['width']):
                raise DatasetError(f'{path} has {image.shape[1]} x {image.shape[0]} pixels, its annotations are for '
                                   f'{entry["width"]} x {entry["height"]}')
            predictor.set_image(image)
            boxes = np.array([prompt['bbox'] for prompt in prompts[image_id]], dtype=np.float32)
            boxes[:, 2:] += boxes[:, :2]
            for prompt, mask in zip(prompts[image_id], masks_of_boxes(predictor, boxes), strict=True):
                results.append({'image_id': image_id, 'category_id': prompt['category_id'],
                                'segmentation': mask.annotation()['segmentation'],
                                'score': prompt.get('score', mask.score)})
        on_progress(1)
    return results


def evaluate(coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
    """COCO's mask AP of results, in percent, over the images ``image_ids``.

    Raises:
        UserError: If there are no results.
    """
    if not results:
        raise UserError('there is nothing to evaluate: there are no boxes for these images')
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), 'segm')
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(evaluation.stats[position]) for name, position in METRICS.items()}
