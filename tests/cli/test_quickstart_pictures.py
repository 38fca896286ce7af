"""The pictures of a training: the right numbers from the logs, and predictions where they are."""
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from repvit_mm.cli.quickstart_pictures import _distinct, draw_detections, draw_losses
from repvit_mm.datasets.shapes import CLASSES, draw_scene


def scalars(step, loss):
    return dict(step=step, loss=loss, loss_cls=loss / 2, lr=1e-3)


def test_losses_are_drawn(tmp_path):
    lines = [scalars(10, 3.), {'mIoU': .5, 'step': 1}, scalars(20, 2.), scalars(30, 1.)]
    draw_losses(lines, tmp_path / 'losses.png')
    picture = np.array(Image.open(tmp_path / 'losses.png').convert('RGB'))
    assert picture.shape == (675, 1200, 3)
    black = (picture < 60).all(-1)[80:580, 500:1100]
    assert black.any(0).all(), 'the total loss goes across'


@pytest.fixture
def sheet(tmp_path):
    """Draws a sheet of perfect predictions of two scenes, scored ``score``."""
    def sheet(score):
        images, results = [], []
        for index in range(2):
            scene, name = draw_scene(index, 96), f'{index}.png'
            Image.fromarray(scene.image).save(tmp_path / name)
            images.append(dict(id=index, file_name=name))
            for label, visible in zip(scene.labels, scene.masks, strict=True):
                mask = mask_utils.encode(np.asfortranarray(visible.astype(np.uint8)))
                results.append(dict(image_id=index, category_id=label + 1, score=score,
                                    bbox=mask_utils.toBbox(mask).tolist(),
                                    segmentation={**mask, 'counts': mask['counts'].decode()}))
        categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
        (tmp_path / 'annotations.json').write_text(json.dumps(dict(images=images, categories=categories)))
        (tmp_path / 'predictions.json').write_text(json.dumps(results, default=float))
        draw_detections(tmp_path / 'predictions.json', tmp_path / 'annotations.json', tmp_path, tmp_path / 'sheet.png')
        return np.array(Image.open(tmp_path / 'sheet.png').convert('RGB')).astype(int)
    return sheet


def test_predictions_are_drawn_over_the_pictures(sheet):
    certain, doubtful = sheet(.9), sheet(.1)
    assert certain.shape == doubtful.shape
    assert .02 < (np.abs(certain - doubtful).max(-1) > 30).mean() < .6


def test_sheet_has_only_the_rows_it_needs(sheet):
    height, width = sheet(.9).shape[:2]
    assert height < .7 * width


def test_of_two_guesses_at_an_object_the_surer_one_is_drawn():
    def detection(score, left):
        mask = np.zeros((20, 20), np.uint8, 'F')
        mask[5:15, left:left + 8] = 1
        return dict(score=score, segmentation=mask_utils.encode(mask))
    doubtful, sure, other = detection(.6, 2), detection(.9, 3), detection(.7, 9)
    assert _distinct([doubtful, sure, other]) == [sure, other]
    assert _distinct([]) == []
