"""Zero-shot evaluation: instances on COCO, edges on BSDS500."""
import json
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from running import run_tool
from sam_samples import picture, save_picture, small_sam
from scipy.io import savemat
from segment_anything import SamPredictor

from repvit_mm.errors import DatasetError, UserError
from repvit_mm.sam.edge_benchmark import Counts, count_matches, list_pictures, load_boundaries, match_edges, score
from repvit_mm.sam.edges import edge_map, outline_strength, suppress_non_maxima
from repvit_mm.sam.instances import (
    detected_boxes,
    evaluate,
    ground_truth_boxes,
    load_annotations,
    masks_of_boxes,
    segment_instances,
)

MODEL = ('--arch', 'm0_6', '--image-size', '64', '--device', 'cpu')


def rectangle(x, y, width, height, shape=(60, 80)):
    mask = np.zeros(shape, np.uint8)
    mask[y:y + height, x:x + width] = 1
    return mask


def encoded(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


@pytest.fixture
def coco_root(tmp_path):
    """Two images of three objects, one of them a crowd, in COCO's layout."""
    objects = [(1, 1, (10, 10, 30, 20)), (1, 2, (50, 30, 20, 20)), (2, 1, (5, 5, 40, 40))]
    annotations = [
        {'id': number, 'image_id': image, 'category_id': category, 'bbox': list(box), 'area': box[2] * box[3],
         'iscrowd': 0, 'segmentation': encoded(rectangle(*box))}
        for number, (image, category, box) in enumerate(objects, start=1)]
    annotations.append(dict(annotations[-1], id=9, iscrowd=1))
    content = {'images': [{'id': i, 'file_name': f'{i}.png', 'width': 80, 'height': 60} for i in (1, 2)],
               'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}], 'annotations': annotations}
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/instances_val2017.json').write_text(json.dumps(content))
    for number in (1, 2):
        save_picture(tmp_path / f'val2017/{number}.png', seed=number)
    return tmp_path


@pytest.fixture
def coco(coco_root):
    return load_annotations(coco_root / 'annotations/instances_val2017.json', coco_root / 'val2017')


def test_annotated_objects_are_prompts_but_crowds_are_not(coco):
    assert {image: [prompt['category_id'] for prompt in prompts]
            for image, prompts in ground_truth_boxes(coco).items()} == {1: [1, 2], 2: [1]}


def test_masks_of_many_boxes_are_those_of_the_predictor():
    predictor = SamPredictor(small_sam())
    predictor.set_image(picture())
    generator = np.random.default_rng(0)
    boxes = np.float32([[x, y, x + 20, y + 15] for x, y in generator.uniform(0, 40, (35, 2))])
    found = masks_of_boxes(predictor, boxes)
    assert len(found) == 35
    for number in (0, 31, 34):
        masks, scores, _ = predictor.predict(box=boxes[number], multimask_output=False)
        assert (found[number].mask == masks[0]).mean() > 0.999
        assert found[number].score == pytest.approx(float(scores[0]), abs=1e-4)


def test_results_carry_the_detectors_score_or_the_models(coco, coco_root):
    prompts = ground_truth_boxes(coco)
    prompts[2][0]['score'] = 0.25
    steps = []
    results = segment_instances(small_sam(), coco, coco_root / 'val2017', prompts, [1, 2], steps.append)
    assert [(result['image_id'], result['category_id']) for result in results] == [(1, 1), (1, 2), (2, 1)]
    assert results[2]['score'] == 0.25 and results[0]['score'] != results[1]['score'] and steps == [1, 1]


def test_perfect_masks_have_an_ap_of_100_and_wrong_ones_of_0(coco):
    perfect = [{'image_id': a['image_id'], 'category_id': a['category_id'], 'segmentation': a['segmentation'],
                'score': 0.9} for a in coco.dataset['annotations'] if not a['iscrowd']]
    assert evaluate(coco, perfect, [1, 2])['AP'] == pytest.approx(100)
    wrong = [dict(result, segmentation=encoded(rectangle(70, 50, 5, 5))) for result in perfect]
    assert evaluate(coco, wrong, [1, 2])['AP'] == pytest.approx(0)
    # Half of the 600 pixels of the only object of category 1 on image 1: an IoU of 0.5 counts at one threshold of ten.
    half = [dict(perfect[0], segmentation=encoded(rectangle(10, 10, 30, 10)))]
    only = evaluate(coco, half + perfect[1:2], [1])
    assert only['AP50'] == pytest.approx(100) and only['AP'] == pytest.approx((100 / 10 + 100) / 2, abs=0.5)
    with pytest.raises(UserError, match='nothing to evaluate'):
        evaluate(coco, [], [1])


def write_results(folder, content):
    (folder / 'boxes.json').write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / 'boxes.json'


BOX = {'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5], 'score': 0.5}


def test_boxes_of_a_detector_are_filtered_by_score(coco, coco_root):
    path = write_results(coco_root, [BOX, dict(BOX, score=0.1), dict(BOX, bbox=[1, 1, 0, 5])])
    assert detected_boxes(path, coco, 0.2) == {1: [BOX]}


@pytest.mark.parametrize('content, message', [
    ('no JSON', 'is not valid JSON'), ({}, "not in COCO's result format: entry 0"),
    ([{'image_id': 1}], 'entry 0 needs image_id, category_id, bbox and score'),
    ([dict(BOX, image_id=77)], 'results for image 77, which is not in the annotations'),
])
def test_results_in_another_format_are_refused(coco, coco_root, content, message):
    with pytest.raises(DatasetError, match=message):
        detected_boxes(write_results(coco_root, content), coco)


def test_coco_tool_measures_and_writes(coco_root):
    status, out, err = run_tool('sam_eval_coco', '--data-root', coco_root, '--out', coco_root / 'out', *MODEL)
    assert not status and '3 masks on 2 images: AP ' in out
    metrics = json.loads((coco_root / 'out/metrics.json').read_text())
    results = json.loads((coco_root / 'out/results.segm.json').read_text())
    assert metrics['images'] == 2 and 0 <= metrics['AP'] <= 100 and len(results) == 3
    status, out, err = run_tool('sam_eval_coco', '--data-root', coco_root / 'nowhere', *MODEL)
    assert status == 1 and 'error: the annotations' in err
    (coco_root / 'val2017/1.png').unlink()
    status, out, err = run_tool('sam_eval_coco', '--data-root', coco_root, '--out', coco_root, *MODEL)
    assert status == 1 and '1.png does not exist' in err


def line(column, shape=(40, 50)):
    mask = np.zeros(shape, bool)
    mask[:, column] = True
    return mask


@pytest.mark.parametrize('distance, matches', [(1.5, 0), (2, 40), (5, 40)])
def test_lines_match_within_the_distance(distance, matches):
    ours, theirs = match_edges(line(20), line(22), distance)
    assert ours.sum() == theirs.sum() == matches


def test_nothing_matches_nothing():
    empty = np.zeros((5, 5), bool)
    assert not match_edges(empty, empty, 3)[0].any() and not match_edges(line(1), np.zeros((40, 50), bool), 3)[1].any()


def test_every_pixel_has_one_partner_at_most():
    double = line(20) | line(21)
    ours, theirs = match_edges(double, line(20), 3)
    assert ours.sum() == theirs.sum() == 40
    assert (ours == line(20)).all()  # the nearer of both


@pytest.mark.parametrize('seed', range(6))
def test_no_assignment_has_more_pairs(seed):
    """Brute force over all assignments of a few pixels."""
    generator = np.random.default_rng(seed)
    first, second = np.zeros((2, 6, 6), bool)
    for mask, count in ((first, 5), (second, 6)):
        mask.ravel()[generator.choice(36, count, replace=False)] = True
    a, b = np.argwhere(first), np.argwhere(second)
    distances = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
    best = max(sum(distances[i, j] <= 1.5 for i, j in enumerate(order)) for order in permutations(range(6), 5))
    ours, theirs = match_edges(first, second, 1.5)
    assert ours.sum() == theirs.sum() == best
    assert (first | ~ours).all() and (second | ~theirs).all()


def test_pixels_count_once_for_precision_and_for_every_annotator_in_recall():
    thresholds = np.array([0.25, 0.75])
    strength = np.where(line(20), 1., np.where(line(40), 0.5, 0)).astype(np.float32)
    counts = count_matches(strength, [line(20), line(20) | line(5)], thresholds)
    assert counts.predicted.tolist() == [80, 40] and counts.correct.tolist() == [40, 40]
    assert counts.drawn.tolist() == [120, 120] and counts.found.tolist() == [80, 80]


def test_prediction_is_thinned_before_it_is_matched():
    thick = line(19) | line(20) | line(21)
    counts = count_matches(thick.astype(np.float32), [line(20)], np.array([0.5]))
    assert counts.predicted[0] <= 42 and counts.correct[0] >= 38


def test_scores_of_known_counts():
    """Two pictures whose best thresholds differ; worked out by hand."""
    thresholds = np.array([0.2, 0.8])
    first = Counts(*np.array([[8., 4.], [10., 10.], [8., 4.], [20., 4.]]))  # R .8 .4, P .4 1: F .533 .571
    second = Counts(*np.array([[10., 2.], [10., 10.], [10., 2.], [10., 2.]]))  # R 1 .2, P 1 1: F 1 .333
    scores = score([first, second], thresholds)
    # Together R .9 .3, P .6 1: F .72 .4615; no threshold in between is better than the first by much.
    assert 0.72 <= scores.ods <= 0.74 and scores.threshold < 0.4
    # Each at its own best: R 14/20, P 14/14.
    assert scores.ois == pytest.approx(2 * 0.7 / 1.7)
    # From recall .3 (precision 1) to .9 (.6), straight; 61 of 101 points.
    assert scores.ap == pytest.approx(0.8 * 61 / 100)


def test_perfect_edges_score_one():
    thresholds = np.arange(1, 10) / 10
    counts = count_matches(line(20).astype(np.float32), [line(20)], thresholds)
    scores = score([counts], thresholds)
    assert scores.ods == scores.ois == pytest.approx(1)


def test_outline_is_where_the_mask_changes():
    logits = torch.full((40, 50), -5.)
    logits[10:30, 20:40] = 5.
    strength = outline_strength(logits)
    rows, columns = np.where(strength > 0)
    assert strength[20, 19:21].min() > 1 and strength[20, 30] == 0 and strength[5, 5] == 0
    assert set(rows) <= {9, 10, 29, 30} | set(range(9, 31)) and columns.min() == 19 and columns.max() == 40
    logits = torch.full((40, 50), -5.)
    logits[:20] = 5.  # touches the border of the picture, which is no edge
    assert outline_strength(logits)[:18].max() == 0


@pytest.mark.parametrize('slope', [0., 0.5, -1.])
def test_ridges_become_thin_and_stay_connected(slope):
    y, x = np.mgrid[:60, :60]
    ridge = np.exp(-((x - 30 - slope * (y - 30)) / np.hypot(1, slope)) ** 2 / 8).astype(np.float32)
    thin = suppress_non_maxima(ridge) > 0.5
    inside = thin[15:45]
    assert (inside.sum(1) >= 1).all() and inside.sum(1).mean() < 2.1
    assert suppress_non_maxima(np.zeros((9, 9), np.float32)).max() == 0


def test_edge_map_covers_the_picture_and_is_scaled():
    edges = edge_map(small_sam(), picture(), points_per_side=2)
    assert edges.shape == (60, 80) and edges.dtype == np.float32
    assert edges.max() == 1 and edges.min() == 0 and 0 < (edges > 0).mean() < 0.6


def write_ground_truth(path, masks):
    annotators = np.empty((1, len(masks)), object)
    for number, mask in enumerate(masks):
        annotation = np.empty((1, 1), [('Segmentation', 'O'), ('Boundaries', 'O')])
        annotation[0, 0] = (mask.astype(np.uint16), mask.astype(np.uint8))
        annotators[0, number] = annotation
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {'groundTruth': annotators})


@pytest.fixture(params=['data', '.'])
def bsds(tmp_path, request):
    """Two pictures in the layout of BSDS500, with and without its data folder."""
    base = tmp_path / 'BSDS500' / request.param
    for number in (1, 2):
        path = base / f'images/test/{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=number)).save(path)
        write_ground_truth(base / f'groundTruth/test/{number}.mat', [line(20, (60, 80)), line(30, (60, 80))])
    return tmp_path / 'BSDS500', base


def test_annotations_of_every_annotator_are_read(bsds):
    root, _ = bsds
    (path, annotation), _ = list_pictures(root, 'test')
    boundaries = load_boundaries(annotation)
    assert path.name == '1.jpg' and len(boundaries) == 2
    np.testing.assert_array_equal(boundaries[1], line(30, (60, 80)))


def test_data_that_is_not_there_is_told(bsds):
    root, base = bsds
    with pytest.raises(DatasetError, match='no pictures .*images/val'):
        list_pictures(root, 'val')
    with pytest.raises(DatasetError, match='the annotation .*9.mat does not exist'):
        load_boundaries(base / 'groundTruth/test/9.mat')
    (base / 'groundTruth/test/1.mat').write_text('no mat')
    with pytest.raises(DatasetError, match='is not an annotation of BSDS500'):
        load_boundaries(base / 'groundTruth/test/1.mat')


@pytest.mark.slow
def test_edge_tool_draws_measures_and_writes(tmp_path):
    base = tmp_path / 'BSDS500'
    path = base / 'images/test/1.jpg'
    path.parent.mkdir(parents=True)
    Image.fromarray(picture()).save(path)
    write_ground_truth(base / 'groundTruth/test/1.mat', [line(20, (60, 80))])
    arguments = ('--data-root', base, '--points-per-side', 2, '--thresholds', 5, '--workers', 1, '--out',
                 tmp_path / 'out', *MODEL)
    status, out, err = run_tool('sam_eval_edges', *arguments)
    assert not status and '1 pictures: ODS ' in out
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert metrics['pictures'] == 1 and all(0 <= metrics[name] <= 1 for name in ('ods', 'ois', 'ap'))
    assert np.asarray(Image.open(tmp_path / 'out/1.png')).shape == (60, 80)
    write_ground_truth(base / 'groundTruth/test/1.mat', [line(20, (30, 40))])
    status, out, err = run_tool('sam_eval_edges', *arguments)
    assert status == 1 and 'is for a picture of 40 x 30' in err
