"""Zero-shot instance segmentation from boxes and its COCO AP, as in the SAM paper (section 7.4) and in SegInW."""
import contextlib
import copy
import io
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
COCO_METRICS = {'AP': 0, 'AP50': 1, 'AP75': 2, 'AP_S': 3, 'AP_M': 4, 'AP_L': 5}
#: Scores of the masks: the detector's score times the predicted IoU, or the detector's score.
RANKINGS = ('product', 'detector')
#: Annotations of a set of SegInW, relative to the set's folder.
SEGINW_FILE = Path('valid', '_annotations_min1cat.coco.json')
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


def read_boxes(path: str | Path) -> dict[Any, list[dict[str, Any]]]:
    """Read a detector's results in COCO's result format.

    Args:
        path: A list of dicts of ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.

    Returns:
        Image id -> results with an area, the best first.

    Raises:
        DatasetError: If the file is missing or has another format.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetError(f"the results {path} do not exist; expected a detector's results.bbox.json")
    results = read_json(path)
    if not isinstance(results, list) or not results:
        raise DatasetError(f"{path} is not in COCO's result format: expected a list of results")
    boxes = defaultdict(list)
    for number, result in enumerate(results):
        if not _is_result(result):
            raise DatasetError(f"{path} is not in COCO's result format: entry {number} needs image_id, category_id, "
                               'bbox and score')
        if min(result['bbox'][2:]) > 0:
            boxes[result['image_id']].append(result)
    return {image: sorted(found, key=lambda result: -result['score']) for image, found in boxes.items()}


def _is_result(result: Any) -> bool:
    try:
        return (len(result['bbox']) == 4 and all(map(math.isfinite, (*result['bbox'], result['score'])))
                and isinstance(result['image_id'], int | str) and isinstance(result['category_id'], int | str))
    except (KeyError, TypeError):
        return False


def detected_boxes(path: str | Path, coco: COCO, top: int) -> dict[int, list[dict[str, Any]]]:
    """A detector's results as prompts: the ``top`` best boxes of each image.

    Raises:
        DatasetError: If the results cannot be read, or are for other images or categories than ``coco``.
    """
    boxes = read_boxes(path)
    for key, what, known in (('image_id', 'image', coco.imgs), ('category_id', 'category', coco.cats)):
        for result in (result for found in boxes.values() for result in found):
            if result[key] not in known:
                raise DatasetError(f'{path} has results for {what} {result[key]}, which is not in the annotations')
    return {image: found[:top] for image, found in boxes.items()}


@torch.no_grad()
def masks_of_boxes(predictor: SamPredictor, boxes: Sequence[Sequence[float]]) -> list[Mask]:
    """One mask for each box of COCO, (N, 4) as x, y, width, height, in the predictor's current image."""
    corners = np.array(boxes, dtype=np.float32)
    corners[:, 2:] += corners[:, :2]
    masks = []
    for start in range(0, len(corners), _BOXES_AT_ONCE):
        inputs = predictor.transform.apply_boxes(corners[start:start + _BOXES_AT_ONCE], predictor.original_size)
        found, scores, _ = predictor.predict_torch(
            None, None, torch.as_tensor(inputs, dtype=torch.float, device=predictor.device), multimask_output=False)
        masks += [Mask(mask, score) for mask, score in
                  zip(found[:, 0].cpu().numpy(), scores[:, 0].tolist(), strict=True)]
    return masks


def segment_instances(sam: Sam, coco: COCO, folder: str | Path, prompts: Mapping[int, Sequence[dict[str, Any]]],
                      image_ids: Iterable[int], ranking: str = 'product') -> list[dict[str, Any]]:
    """Segment the instances in boxes.

    Args:
        sam: The model.
        coco: The annotations.
        folder: Folder of the images.
        prompts: Image id -> dicts with ``category_id``, ``bbox`` and, from a detector, ``score``.
        image_ids: The images to segment.
        ranking: One of :data:`RANKINGS`; without a detector, the score is the predicted IoU.

    Returns:
        Results in COCO's format.

    Raises:
        UserError: If an image is missing or damaged.
    """
    predictor, results = SamPredictor(sam), []
    for image_id in image_ids:
        if not prompts.get(image_id):
            continue
        path, entry = Path(folder, coco.imgs[image_id]['file_name']), coco.imgs[image_id]
        image = read_image(path)
        if image.shape[:2] != (entry['height'], entry['width']):
            raise DatasetError(f'{path} has {image.shape[1]} x {image.shape[0]} pixels, its annotations are for '
                               f'{entry["width"]} x {entry["height"]}')
        predictor.set_image(image)
        masks = masks_of_boxes(predictor, [prompt['bbox'] for prompt in prompts[image_id]])
        for prompt, mask in zip(prompts[image_id], masks, strict=True):
            score = prompt.get('score', 1.) * (1. if ranking == 'detector' and 'score' in prompt else mask.score)
            results.append({'image_id': image_id, 'category_id': prompt['category_id'],
                            'segmentation': mask.annotation()['segmentation'], 'score': score})
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
    return {name: 100 * float(evaluation.stats[position]) for name, position in COCO_METRICS.items()}


def seginw_sets(root: Path, boxes: Path) -> dict[str, tuple[COCO, Path, Path]]:
    """The sets of SegInW (https://arxiv.org/abs/2212.11270).

    Args:
        root: Folder of the sets.
        boxes: Folder with a detector's results, ``SET.bbox.json``.

    Returns:
        Set -> annotations, folder of the images, file of the results.

    Raises:
        DatasetError: If there are no sets, or a set cannot be read.
    """
    names = sorted(path.parent.parent.name for path in root.glob(f'*/{SEGINW_FILE}'))
    if not names:
        raise DatasetError(f'{root} has no SET/{SEGINW_FILE}')
    if missing := [name for name in names if not (boxes / f'{name}.bbox.json').is_file()]:
        raise DatasetError(f'{boxes} lacks the boxes of {len(missing)} sets, the first is {missing[0]}.bbox.json')
    return {name: (load_annotations(root / name / SEGINW_FILE, root / name / SEGINW_FILE.parent),
                   root / name / SEGINW_FILE.parent, boxes / f'{name}.bbox.json') for name in names}
