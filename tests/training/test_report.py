import csv

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.structures import DataSample
from PIL import Image

from repvit_mm.errors import ConfigError
from repvit_mm.training import report
from repvit_mm.training.classification import ClassificationReport

CLASSES = ('cat', 'ant/bee', 'dog')


@pytest.fixture
def predictions(tmp_path):
    """Labels and scores of five images; the second and the fourth are mistakes, the fourth is the worse."""
    labels = [0, 0, 1, 2, 2]
    scores = [[.8, .1, .1], [.3, .5, .2], [.1, .8, .1], [.85, .1, .05], [.1, .1, .8]]
    samples = []
    for number, (label, score) in enumerate(zip(labels, scores, strict=True)):
        path = tmp_path / f'{number}.jpg'
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(path)
        sample = DataSample(metainfo=dict(img_path=str(path))).set_gt_label(label)
        samples.append(sample.set_pred_score(torch.tensor(score)))
    return samples


def evaluate(samples, folder, **settings):
    metric = ClassificationReport(str(folder), **settings)
    metric.dataset_meta = dict(classes=CLASSES)
    evaluator = Evaluator(metric)
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def test_every_prediction_is_in_the_table(predictions, tmp_path):
    evaluate(predictions, tmp_path / 'out')
    with open(tmp_path / 'out' / 'predictions.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['label'] for row in rows] == ['cat', 'cat', 'ant/bee', 'dog', 'dog']
    assert [row['predicted'] for row in rows] == ['cat', 'ant/bee', 'ant/bee', 'cat', 'dog']
    assert rows[3] == dict(image=str(tmp_path / '3.jpg'), label='dog', predicted='cat', score='0.8500',
                           score_of_label='0.0500')


def test_classes_count_alike(predictions, tmp_path):
    assert evaluate(predictions, tmp_path / 'out') == {'accuracy/mean_class': pytest.approx((50 + 100 + 50) / 3)}


def test_the_worst_mistakes_are_drawn_with_the_worst_first(predictions, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, 'read_image', lambda path: drawn.append(path) or np.zeros((4, 4, 3), np.uint8))
    evaluate(predictions, tmp_path / 'out')
    assert drawn == [str(tmp_path / '3.jpg'), str(tmp_path / '1.jpg')]
    evaluate(predictions, tmp_path / 'out', worst=1)
    assert drawn[2:] == [str(tmp_path / '3.jpg')]


def test_pictures_are_drawn(predictions, tmp_path):
    evaluate(predictions, tmp_path / 'out')
    for name in ('confusion_matrix.png', 'mistakes.png'):
        pixels = np.asarray(Image.open(tmp_path / 'out' / name).convert('L'))
        assert min(pixels.shape) > 100 and pixels.std() > 10


def test_many_classes_make_a_picture_of_bounded_size():
    figure = report.draw_confusion_matrix(np.eye(1000, dtype=int), [str(i) for i in range(1000)])
    assert max(figure.get_size_inches()) < 20


def test_without_mistakes_none_is_drawn(predictions, tmp_path):
    evaluate(predictions, tmp_path / 'out')
    evaluate(predictions[:1], tmp_path / 'out')
    assert not (tmp_path / 'out' / 'mistakes.png').exists()


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match='worst'):
        ClassificationReport(str(tmp_path), worst=-1)
