"""Prompts, their masks, and the command line."""
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from running import run_tool
from sam_samples import ARGUMENTS, picture, save_picture, small_sam
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from repvit_mm.errors import UserError
from repvit_mm.sam import Mask, Prompt, segment, segment_everything
from repvit_mm.sam.masks import decode, draw


@pytest.fixture(scope='module')
def sam():
    return small_sam()


@pytest.fixture
def predictor(sam):
    predictor = SamPredictor(sam)
    predictor.set_image(picture())
    return predictor


@pytest.mark.parametrize('prompt, message', [
    (Prompt(), 'the prompt is empty'),
    (Prompt(((80, 10),), (1,)), 'point 80 10 is outside the image of 80 x 60 pixels'),
    (Prompt(((10, 60),), (1,)), 'point 10 60 is outside'),
    (Prompt(((-1, 10),), (0,)), 'point -1 10 is outside'),
    (Prompt(((float('nan'), 10),), (1,)), 'point nan 10 is outside'),
    (Prompt(((1, 1),), (2,)), 'label 2 of a point must be 1'),
    (Prompt(((1, 1),), ()), 'expected 1 labels, one for each point, got 0'),
    (Prompt(box=(90, 10, 95, 20)), 'box 90 10 95 20 has no area inside the image'),
    (Prompt(box=(10, 10, 10, 20)), 'has no area'),
    (Prompt(box=(0, 0, float('inf'), 20)), 'must be four finite numbers'),
])
def test_meaningless_prompts_are_rejected(predictor, prompt, message):
    with pytest.raises(UserError, match=message):
        segment(predictor, prompt)


@pytest.mark.parametrize('box', [(50, 40, 10, 20), (10, 40, 50, 20), (50, 20, 10, 40)])
def test_corners_of_a_box_come_in_any_order(predictor, box):
    expected, = segment(predictor, Prompt(box=(10, 20, 50, 40)))
    found, = segment(predictor, Prompt(box=box))
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert Prompt(box=(-5, -5, 200, 20)).checked(80, 60).box == (0, 0, 80, 20)


def test_a_single_point_gives_three_masks_the_best_first(predictor):
    found = segment(predictor, Prompt(((30, 30),), (1,)))
    masks, scores, _ = predictor.predict(np.array([[30, 30]]), np.array([1]), multimask_output=True)
    assert [mask.score for mask in found] == sorted(scores.tolist(), reverse=True)
    np.testing.assert_array_equal(found[0].mask, masks[scores.argmax()])
    assert found[0].mask.shape == (60, 80)
    assert len(segment(predictor, Prompt(((30, 30), (3, 3)), (1, 0)))) == 1


def test_annotation_holds_the_mask():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    annotation = Mask(mask, 0.5).annotation()
    assert annotation['area'] == 15 and annotation['bbox'] == [2, 1, 5, 3] and annotation['predicted_iou'] == 0.5
    np.testing.assert_array_equal(decode(json.loads(json.dumps(annotation))), mask)


def test_everything_is_found_as_by_the_generator(sam):
    settings = dict(points_per_side=3, points_per_batch=4, pred_iou_thresh=-9., stability_score_thresh=0.)
    found = segment_everything(sam, picture(), **settings)
    expected = SamAutomaticMaskGenerator(sam, **settings).generate(picture())
    assert len(found) == len(expected) > 0
    areas = [annotation['area'] for annotation in found]
    assert areas == sorted((annotation['area'] for annotation in expected), reverse=True)
    assert decode(found[0]).sum() == areas[0]


def test_drawing_colours_the_mask_and_nothing_else():
    image, mask = picture(), np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    changed = (draw(image, [mask]) != image).any(2)
    assert changed[21:39, 31:59].mean() > 0.99 and not changed[:18].any() and not changed[:, :28].any()
    drawn = draw(image, [], Prompt(((10, 10),), (1,), (40, 20, 60, 50)))
    assert drawn[10, 10].tolist() == [0, 200, 0] and drawn[20, 50].tolist() == [255, 220, 0]
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize(('prompts', 'said', 'number'), [
    (('--point', 30, 30), '3 masks, the best', 3), (('--box', 5, 5, 30, 30, '--box', 40, 10, 70, 50), '2 masks', 2)])
def test_demo_writes_drawings_and_annotations(tmp_path, prompts, said, number):
    path = save_picture(tmp_path / 'discs.png')
    status, out, err = run_tool('sam_demo', path, *prompts, '--out', tmp_path / 'out', *ARGUMENTS)
    assert not status and said in out and 'the weights are random' in err
    content = json.loads((tmp_path / 'out/discs_masks.json').read_text())
    assert len(content['annotations']) == number
    assert content['image'] == {'file_name': 'discs.png', 'width': 80, 'height': 60}
    for number, annotation in enumerate(content['annotations']):
        mask = np.asarray(Image.open(tmp_path / f'out/discs_mask_{number:03d}.png'))
        np.testing.assert_array_equal(mask, coco_mask.decode(annotation['segmentation']) * 255)
    assert np.asarray(Image.open(tmp_path / 'out/discs_masks.png')).shape == (60, 80, 3)


def test_demo_names_the_image_that_does_not_fit_into_the_size(tmp_path):
    paths = save_picture(tmp_path / 'a.png', 60, 80), save_picture(tmp_path / 'b.png', 80, 60)
    status, out, err = run_tool('sam_demo', *paths, '--point', 30, 30, '--out', tmp_path / 'out', '--encoder',
                                'repvit_m0_6', '--image-size', '48x64', '--device', 'cpu')
    assert status == 1 and f'error: {paths[1]}: scaled to 48 x 64 pixels, the image does not fit into 64 x 48' in err
    assert '3 masks' in out


def test_demo_segments_everything_in_a_folder(tmp_path):
    for name in ('a', 'b'):
        save_picture(tmp_path / 'images' / f'{name}.png')
    status, _, _ = run_tool('sam_demo', tmp_path / 'images', '--everything', '--points-per-side', 2,
                            '--pred-iou-thresh', -9, '--stability-score-thresh', 0, '--out', tmp_path, *ARGUMENTS)
    assert not status
    for name in ('a', 'b'):
        count = len(json.loads((tmp_path / f'{name}_masks.json').read_text())['annotations'])
        assert count == len(list(tmp_path.glob(f'{name}_mask_*.png'))) > 0


@pytest.mark.parametrize('arguments, message', [
    ((), 'the prompt is empty'),
    (('--point', 500, 1), 'point 500 1 is outside the image'),
    (('--point', 1, 1, '--everything'), '--everything cannot be combined with points or a box'),
    (('--point', 1, 1, *2 * ('--box', 1, 1, 5, 5)), 'several boxes cannot be combined with points'),
    (('--point', 1, 1, '--device', 'cuda:99'), '--device cuda:99: torch has no such device'),
    (('--point', 1, 1, '--checkpoint', 'nowhere.pt'), 'there is no file nowhere.pt'),
])
def test_mistakes_on_the_command_line_are_one_line(tmp_path, arguments, message):
    path = save_picture(tmp_path / 'discs.png')
    status, _, err = run_tool('sam_demo', path, '--encoder', 'repvit_m0_6', '--out', tmp_path / 'out', *arguments)
    error = [line for line in err.splitlines() if line.startswith('error: ')]
    assert status == 1 and len(error) == 1 and message in error[0]
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('size', 'wrong'), [(100, 100), (0, 0), (-16, -16), ('x', 'x'), ('48x60', 60)])
def test_image_size_that_the_model_does_not_take_is_a_usage_error(size, wrong):
    status, _, error = run_tool('sam_demo', 'x.png', '--point', 1, 1, '--image-size', size)
    assert status == 2
    assert f'argument --image-size: expected a multiple of 16 from 16 to 8192, got {wrong}' in error.splitlines()[-1]
    assert 'random' not in error


@pytest.mark.parametrize('arguments', [('--everything',), ('--point', 1, 1)])
def test_a_folder_that_cannot_be_created_is_an_error_before_the_work(tmp_path, monkeypatch, arguments):
    path = save_picture(tmp_path / 'discs.png')
    monkeypatch.setattr('segment_anything.modeling.Sam.preprocess', None)  # what all the work begins with
    status, out, err = run_tool('sam_demo', path, *arguments, '--out', path, *ARGUMENTS)
    assert status == 1 and f'error: --out {path}: the folder cannot be created' in err.splitlines()[-1]
