"""The report of a test, against counts by hand and pycocotools."""
import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from repvit_mm.analysis.report import (
    ReportHook,
    enable_report,
    judge_classification,
    judge_detection,
    judge_labels,
    judge_segmentation,
    training_log,
)
from repvit_mm.errors import ConfigError

META = dict(classes=('cat', 'ant/<bee>', 'dog'), palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]])


def detections(boxes, labels, scores):
    return DetDataSample(pred_instances=InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(scores, dtype=torch.float32)), metainfo=dict(img_path='x.jpg'))


def objects(*rows):
    return [dict(bbox=box, bbox_label=label, ignore_flag=ignored) for box, label, ignored in rows]


def test_an_image_counts_by_its_best_class():
    sample = DataSample(metainfo=dict(img_path='x.jpg')).set_gt_label(0).set_pred_score(torch.tensor([.3, .5, .2]))
    judged = judge_classification(sample, None, META)
    assert (judged.truth, judged.predicted, judged.mistake) == ([0], [1], pytest.approx(0.5))
    assert judged.caption == 'cat 0.30, predicted ant/<bee> 0.50' and judged.scored.tolist() == [[0.5, False]]


def test_ignored_pixels_do_not_count():
    sample = SegDataSample(metainfo=dict(img_path='x.png'))
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 1], [2, 255]]]))
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 1], [1, 1]]]))
    judged = judge_segmentation(sample, None, META)
    assert judged.truth.tolist() == [0, 1, 2] and judged.predicted.tolist() == [0, 1, 1]
    assert judged.mistake == pytest.approx(1 / 3)


@pytest.mark.parametrize(('found', 'truth', 'pairs'), [
    (([[0, 0, 10, 10]], [0], [.9]), [([0, 0, 10, 9], 0, 0)], [(0, 0)]),
    (([[0, 0, 10, 10]], [1], [.9]), [([0, 0, 10, 9], 0, 0)], [(0, 1)]),
    (([[0, 0, 10, 10]], [1], [.2]), [([0, 0, 10, 9], 0, 0)], [(0, 3)]),
    (([[0, 0, 10, 10], [0, 0, 9, 10]], [1, 0], [.9, .8]), [([0, 0, 10, 10], 0, 0)], [(0, 0), (3, 1)]),
    (([[0, 0, 10, 10], [0, 0, 9, 10]], [0, 0], [.9, .8]), [([0, 0, 10, 10], 0, 0)], [(0, 0), (3, 0)]),
    (([[2, 2, 5, 5]], [0], [.9]), [([0, 0, 30, 30], 0, 1)], []),
    (([], [], []), [], []),
], ids=['right', 'confused', 'of a low score', 'the class before the score', 'twice', 'in a crowd', 'nothing'])
def test_detections_are_matched_once_and_by_class_first(found, truth, pairs):
    judged = judge_detection(detections(*found), objects(*truth), META)
    assert sorted(zip(judged.truth.tolist(), judged.predicted.tolist(), strict=True)) == sorted(pairs)
    assert judged.mistake == sum(a != b for a, b in pairs)


def test_the_curve_has_the_hits_of_pycocotools():
    random = np.random.default_rng(0)
    truth = [[*corner, *(corner + random.uniform(5, 20, 2))] for corner in random.uniform(0, 40, (30, 2))]
    found = [list(np.array(box) + random.normal(0, 2, 4)) for box in truth for _ in range(2)]
    labels, scores = random.integers(0, 3, 30), random.permutation(60) / 60
    judged = judge_detection(detections(found, labels.repeat(2), scores),
                             objects(*((box, label, 0) for box, label in zip(truth, labels, strict=True))), META)

    def as_coco(boxes, of, **more):
        return [dict(id=i + 1, image_id=1, category_id=int(label), iscrowd=0, area=(x1 - x0) * (y1 - y0),
                     bbox=[x0, y0, x1 - x0, y1 - y0], **{k: float(v[i]) for k, v in more.items()})
                for i, ((x0, y0, x1, y1), label) in enumerate(zip(boxes, of, strict=True))]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(images=[dict(id=1)], categories=[dict(id=i) for i in range(3)],
                            annotations=as_coco(truth, labels))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(as_coco(found, labels.repeat(2), score=scores)), 'bbox')
        evaluation.evaluate()
    hits = {score: bool(match) for image in evaluation.evalImgs if image and image['aRng'][1] > 1e9
            for score, match in zip(image['dtScores'], image['dtMatches'][0], strict=True)}
    assert {round(score, 4): bool(hit) for score, hit in judged.scored} == {
        round(score, 4): hit for score, hit in hits.items()}


def test_the_page_shows_the_worst_images_and_escapes_names(tmp_path):
    hook = ReportHook(str(tmp_path), 'classification')
    runner = SimpleNamespace(cfg=SimpleNamespace(load_from=None, filename='x.py'),
                             test_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=META, pipeline=None)))
    hook.before_test_epoch(runner)
    for number, (label, scores) in enumerate([(0, [.8, .1, .1]), (0, [.3, .5, .2]), (2, [.9, 0, .1])]):
        path = tmp_path / f'{number}.png'
        Image.new('RGB', (8, 8)).save(path)
        sample = DataSample(metainfo=dict(img_path=str(path))).set_gt_label(label)
        hook.after_test_iter(runner, number, None, [sample.set_pred_score(torch.tensor(scores))])
    hook.after_test_epoch(runner, {'accuracy/top1': 33.3})
    page = (tmp_path / 'report.html').read_text()
    assert '<td>cat</td><td>2</td><td>50.0</td><td>50.0</td>' in page
    assert '<td>dog</td><td>1</td><td>0.0</td><td>-</td>' in page, 'a class that is never predicted'
    assert '<td>mean</td><td>3</td><td>25.0</td><td>50.0</td>' in page, 'classes without images are left out'
    assert 0 < page.index('2.png: dog') < page.index('1.png: cat') and '0.png' not in page
    assert '<bee>' not in page and 'ant/&lt;bee&gt;' in page


def test_the_curves_are_those_of_the_training_that_saved_the_checkpoint(tmp_path):
    """Of another training in the folder, one that it resumed, its own, and a later one."""
    for run, resumed, steps in (('20200101_000000', False, (1, 2, 9)), ('20200102_000000', False, (1, 2, 3)),
                                ('20200103_000000', True, (3, 4)), ('20990101_000000', False, (1,))):
        (tmp_path / run / 'vis_data').mkdir(parents=True)
        (tmp_path / run / 'vis_data/config.py').write_text(f'resume = {resumed}\n')
        (tmp_path / run / 'vis_data/scalars.json').write_text(
            '\n'.join(f'{{"loss": {run[6:8]}, "step": {step}}}' for step in steps).replace(': 0', ': '))
    (tmp_path / 'epoch_4.pth').touch()
    assert [(line['loss'], line['step']) for line in training_log(str(tmp_path / 'epoch_4.pth'))] == [
        (2, 1), (2, 2), (3, 3), (3, 4)]


def test_labels_are_right_missed_or_too_much():
    sample = DataSample(metainfo=dict(img_path='x.jpg')).set_gt_label([0, 1]).set_pred_label([1, 2])
    judged = judge_labels(sample.set_pred_score(torch.tensor([.1, .8, .7])), None, META)
    assert judged.truth.tolist() == [0, 1, 3] and judged.predicted.tolist() == [3, 1, 2] and judged.mistake == 2
    assert judged.caption == 'cat, ant/<bee>; predicted ant/<bee>, dog'
    assert judged.scored[:, 1].tolist() == [1, 1, 0]


def test_a_folder_is_made_with_its_report(tmp_path):
    cfg = Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier')))
    enable_report(cfg, str(tmp_path / 'new/report'))
    assert not list(tmp_path.iterdir()) and cfg.custom_hooks[0].kind == 'classification'


def test_a_config_without_a_toolbox_has_no_report(tmp_path):
    with pytest.raises(ConfigError, match='--report needs a config for mmdet, mmseg or mmpretrain'):
        enable_report(Config(dict(default_scope='repvit_mm', model=dict(type='SamDistiller'))), str(tmp_path))
