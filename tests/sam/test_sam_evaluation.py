"""Zero-shot evaluation: instances on COCO and SegInW, edges on BSDS500, salient objects on DUTS, anomalies on MVTec."""
import json
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from running import run_tool
from sam_samples import ARGUMENTS, picture, save_picture, small_sam
from scipy.io import savemat
from segment_anything import SamPredictor
from sklearn.metrics import f1_score

from repvit_mm.errors import DatasetError, UserError
from repvit_mm.sam import instances, pixels
from repvit_mm.sam.edge_benchmark import Counts, bsds_images, count_matches, load_boundaries, match_edges, score
from repvit_mm.sam.edges import edge_map, outline_strength, suppress_non_maxima
from repvit_mm.sam.instances import (
    detected_boxes,
    evaluate,
    ground_truth_boxes,
    load_annotations,
    masks_of_boxes,
    segment_instances,
)
from repvit_mm.sam.masks import Mask, decode, segment_everything


def rectangle(x, y, width, height, shape=(60, 80)):
    mask = np.zeros(shape, np.uint8)
    mask[y:y + height, x:x + width] = 1
    return mask


def encoded(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def write_coco(path, folder, objects):
    """Annotations of two images; an object is image, category and box, and fills its box."""
    annotations = [
        {'id': number, 'image_id': image, 'category_id': category, 'bbox': list(box), 'area': box[2] * box[3],
         'iscrowd': 0, 'segmentation': encoded(rectangle(*box))}
        for number, (image, category, box) in enumerate(objects, start=1)]
    annotations.append(dict(annotations[-1], id=9, iscrowd=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        'images': [{'id': i, 'file_name': f'{i}.png', 'width': 80, 'height': 60} for i in (1, 2)],
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}], 'annotations': annotations}))
    for number in (1, 2):
        save_picture(folder / f'{number}.png', seed=number)


@pytest.fixture
def coco_root(tmp_path):
    write_coco(tmp_path / 'annotations/instances_val2017.json', tmp_path / 'val2017',
               [(1, 1, (10, 10, 30, 20)), (1, 2, (50, 30, 20, 20)), (2, 1, (5, 5, 40, 40))])
    return tmp_path


@pytest.fixture
def coco(coco_root):
    return load_annotations(coco_root / 'annotations/instances_val2017.json', coco_root / 'val2017')


@pytest.fixture
def box_masks(monkeypatch):
    """Masks fill their boxes; the predicted IoU is the height of the box in units of 100 pixels."""
    def fill(predictor, boxes):
        height, width = predictor.original_size
        return [Mask(rectangle(*map(int, box), (height, width)).astype(bool), box[3] / 100) for box in boxes]
    for module in (instances, pixels):
        monkeypatch.setattr(module, 'masks_of_boxes', fill)


def test_masks_of_many_boxes_are_those_of_the_predictor():
    predictor = SamPredictor(small_sam())
    predictor.set_image(picture())
    generator = np.random.default_rng(0)
    boxes = np.float32([[x, y, 20, 15] for x, y in generator.uniform(0, 40, (35, 2))])
    found = masks_of_boxes(predictor, boxes)
    assert len(found) == 35
    for number in (0, 31, 34):
        box = np.concatenate([boxes[number, :2], boxes[number, :2] + boxes[number, 2:]])
        masks, scores, _ = predictor.predict(box=box, multimask_output=False)
        assert (found[number].mask == masks[0]).mean() > 0.999
        assert found[number].score == pytest.approx(float(scores[0]), abs=1e-4)


def write_results(path, results):
    path.write_text(results if isinstance(results, str) else json.dumps(results))
    return path


BOX = {'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 5, 5], 'score': 0.5}
#: The object of image 1 and category 1, found with a lower score than a wrong box with a lower predicted IoU.
RIGHT, WRONG = dict(BOX, bbox=[10, 10, 30, 20], score=0.6), dict(BOX, bbox=[60, 0, 10, 10], score=0.9)


@pytest.mark.parametrize(('ranking', 'scores', 'ap'), [('product', [0.12, 0.09], 100), ('detector', [0.6, 0.9], 50)])
def test_masks_are_ranked_by_the_product_or_by_the_detector(coco, coco_root, box_masks, ranking, scores, ap):
    results = segment_instances(small_sam(), coco, coco_root / 'val2017', {1: [RIGHT, WRONG]}, [1, 2], ranking)
    assert [result['score'] for result in results] == pytest.approx(scores)
    coco.dataset['annotations'] = coco.dataset['annotations'][:1]
    coco.createIndex()
    # One object: the wrong mask before it halves the precision.
    assert evaluate(coco, results, [1])['AP'] == pytest.approx(ap)


def test_without_a_detector_the_score_is_the_predicted_iou(coco, coco_root, box_masks):
    results = segment_instances(small_sam(), coco, coco_root / 'val2017', ground_truth_boxes(coco), [1, 2])
    assert [(result['image_id'], result['score']) for result in results] == [(1, 0.2), (1, 0.2), (2, 0.4)]


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


def test_the_best_boxes_of_a_detector_are_taken(coco, coco_root):
    path = write_results(coco_root / 'boxes.json', [dict(BOX, score=0.1), BOX, dict(BOX, bbox=[1, 1, 0, 5])])
    assert detected_boxes(path, coco, 1) == {1: [BOX]}


@pytest.mark.parametrize('content, message', [
    ('no JSON', 'is not valid JSON'), ({}, "not in COCO's result format: expected a list"),
    ([{'image_id': 1}], 'entry 0 needs image_id, category_id, bbox and score'),
    ([dict(BOX, image_id=77)], 'results for image 77, which is not in the annotations'),
])
def test_results_in_another_format_are_refused(coco, coco_root, content, message):
    with pytest.raises(DatasetError, match=message):
        detected_boxes(write_results(coco_root / 'boxes.json', content), coco, 100)


def test_coco_is_evaluated_by_the_tool(coco_root):
    status, out, err = run_tool('sam_eval', 'coco', '--data-root', coco_root, '--out', coco_root / 'out', *ARGUMENTS)
    assert not status and out.startswith('AP ')
    metrics = json.loads((coco_root / 'out/metrics.json').read_text())
    results = json.loads((coco_root / 'out/results.segm.json').read_text())
    assert metrics['encoder'] == 'repvit_m0_6' and 0 <= metrics['AP'] <= 100 and len(results) == 3
    status, out, err = run_tool('sam_eval', 'coco', '--data-root', coco_root / 'nowhere', *ARGUMENTS)
    assert status == 1 and 'error: the annotations' in err


def test_seginw_is_the_mean_over_its_sets(tmp_path, box_masks):
    for name, box in (('Birds', (10, 10, 30, 20)), ('Tools', (40, 20, 30, 30))):
        folder = tmp_path / 'data' / name / 'valid'
        write_coco(folder / '_annotations_min1cat.coco.json', folder, [(1, 1, box)])
    (tmp_path / 'boxes').mkdir()
    write_results(tmp_path / 'boxes/Birds.bbox.json', [RIGHT, WRONG])  # ranked by the detector: AP 50
    arguments = ('seginw', '--data-root', tmp_path / 'data', '--boxes', tmp_path / 'boxes', '--out', tmp_path / 'out',
                 *ARGUMENTS)
    status, _, err = run_tool('sam_eval', *arguments)
    assert status == 1 and 'lacks the boxes of 1 sets, the first is Tools.bbox.json' in err
    write_results(tmp_path / 'boxes/Tools.bbox.json', [dict(BOX, bbox=[40, 20, 30, 30])])  # AP 100
    assert run_tool('sam_eval', *arguments).status == 0
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert [metrics[name] for name in ('Birds', 'Tools', 'mean AP')] == pytest.approx([50, 100, 75])


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask, np.uint8) * 255).save(path)


def test_the_salient_mask_is_the_one_nearest_to_the_truth(monkeypatch):
    truth = 1. * rectangle(10, 10, 30, 20)
    found = [{'segmentation': encoded(rectangle(*box))} for box in ((10, 10, 30, 10), (0, 0, 80, 60))]
    monkeypatch.setattr(pixels, 'segment_everything', lambda *_, **__: found)
    assert pixels.salient_error(None, None, truth, 2) == pytest.approx(300 / 4800)  # the first lacks half
    monkeypatch.setattr(pixels, 'segment_everything', lambda *_, **__: [])
    assert pixels.salient_error(None, None, truth, 2) == pytest.approx(600 / 4800)


def test_duts_is_the_mean_error_over_its_images(tmp_path):
    root, expected, sam = tmp_path / 'DUTS-TE', [], small_sam()
    for number in (1, 2):
        (root / 'DUTS-TE-Image').mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=number)).save(root / f'DUTS-TE-Image/{number}.jpg')
        truth = rectangle(5 * number, 5, 50, 40)
        save_mask(root / f'DUTS-TE-Mask/{number}.png', truth)
        image = np.asarray(Image.open(root / f'DUTS-TE-Image/{number}.jpg'))
        masks = [decode(one) for one in segment_everything(sam, image, points_per_side=2)] + [truth * 0]
        expected.append(np.abs(max(masks, key=lambda mask: f1_score(truth.ravel() > 0, mask.ravel() > 0)) - 1. * truth))
    found = pixels.evaluate_duts(sam, pixels.duts_images(root), points_per_side=2)
    assert found == {'MAE': pytest.approx(np.mean(expected))}
    (root / 'DUTS-TE-Mask/2.png').unlink()
    with pytest.raises(DatasetError, match='2.png is missing'):
        pixels.duts_images(root)


def test_mvtec_has_the_best_f1_of_the_pixels_of_each_class(tmp_path, box_masks):
    """100 x 100 pixels of 256 x 256 are anomalous; half of them are found with 0.9, and 50 x 50 wrong ones with 0.5."""
    root = tmp_path / 'mvtec'
    for kind in ('good', 'cut'):
        save_picture(root / f'cable/test/{kind}/000.png', 256, 256)
    save_mask(root / 'cable/ground_truth/cut/000_mask.png', rectangle(0, 0, 100, 100, (256, 256)))
    results = [dict(BOX, image_id='cable/test/cut/000.png', bbox=[0, 0, 100, 50], score=0.9),
               dict(BOX, image_id='cable/test/good/000.png', bbox=[0, 0, 50, 50], score=0.5)]
    status, _, err = run_tool('sam_eval', 'mvtec', '--data-root', root, '--out', tmp_path / 'out', '--boxes',
                              write_results(tmp_path / 'boxes.json', results), *ARGUMENTS)
    assert not status, err
    # At 0.9 the precision is 1 and the recall 0.5.
    assert json.loads((tmp_path / 'out/metrics.json').read_text())['mean F1'] == pytest.approx(100 * 2 * 0.5 / 1.5)
    status, _, err = run_tool('sam_eval', 'mvtec', '--data-root', root, *ARGUMENTS)
    assert status == 1 and "--boxes: mvtec needs a detector's boxes" in err


def line(column, shape=(40, 50)):
    mask = np.zeros(shape, bool)
    mask[:, column] = True
    return mask


EMPTY = np.zeros((40, 50), bool)


@pytest.mark.parametrize('first, second, distance, matches', [
    (line(20), line(22), 1.5, 0), (line(20), line(22), 2, 40), (line(20), line(22), 5, 40), (line(1), EMPTY, 3, 0),
    (EMPTY, EMPTY, 3, 0)])
def test_lines_match_within_the_distance(first, second, distance, matches):
    ours, theirs = match_edges(first, second, distance)
    assert ours.sum() == theirs.sum() == matches


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
    """Two images whose best thresholds differ; worked out by hand."""
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


def test_edge_map_covers_the_image_and_is_scaled():
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
    """Two images in the layout of BSDS500, with and without its data folder."""
    base = tmp_path / 'BSDS500' / request.param
    for number in (1, 2):
        path = base / f'images/test/{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=number)).save(path)
        write_ground_truth(base / f'groundTruth/test/{number}.mat', [line(20, (60, 80)), line(30, (60, 80))])
    return tmp_path / 'BSDS500', base


def test_the_annotations_of_every_annotator_are_read_and_missing_data_is_named(bsds):
    root, base = bsds
    (path, annotation), _ = bsds_images(root, 'test')
    assert path.name == '1.jpg'
    np.testing.assert_array_equal(load_boundaries(annotation), [line(20, (60, 80)), line(30, (60, 80))])
    with pytest.raises(DatasetError, match='no images .*images/val'):
        bsds_images(root, 'val')
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
                 tmp_path / 'out', *ARGUMENTS)
    status, out, err = run_tool('sam_eval', 'bsds500', *arguments)
    assert not status and out.startswith('ods ')
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert all(0 <= metrics[name] <= 1 for name in ('ods', 'ois', 'ap'))
    assert np.asarray(Image.open(tmp_path / 'out/1.png')).shape == (60, 80)
    write_ground_truth(base / 'groundTruth/test/1.mat', [line(20, (30, 40))])
    status, out, err = run_tool('sam_eval', 'bsds500', *arguments)
    assert status == 1 and 'is for an image of 40 x 30' in err
