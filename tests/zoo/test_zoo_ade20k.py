"""The mIoU of a published segmentor, from a file in the authors' format and label images to the table.

The expected figures are those of timm's backbone, a Semantic FPN written out here, and a confusion matrix in NumPy.
"""
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_models import (
    Pyramid,
    draw_clouds,
    load_weights,
    measure,
    normalise,
    reproduce,
    resize_within,
    stage_maps,
    standardise,
)
from published_files import official_names, random_model
from running import run_tool
from torch import nn

from repvit_mm.zoo.rows import ROOT

pytest.importorskip('mmseg')

CONFIG = ROOT / 'configs/segmentation/fpn_repvit_m1_1.py'
CHANNELS, HIDDEN, CLASSES = 256, 128, 150
SMALL = ['test_dataloader.num_workers=0']


class SemanticFpn(nn.Module):
    """Panoptic FPN's semantic branch (https://arxiv.org/abs/1901.02446) on the ends of the stages."""

    def __init__(self):
        super().__init__()
        self.backbone = random_model('repvit_m1_1', num_classes=0)
        torch.manual_seed(1)
        self.neck = Pyramid(CHANNELS)
        self.scales = nn.ModuleList(nn.ModuleList(
            nn.ModuleDict({'conv': nn.Conv2d(HIDDEN if number else CHANNELS, HIDDEN, 3, padding=1, bias=False),
                           'bn': nn.BatchNorm2d(HIDDEN)}) for number in range(max(1, level))) for level in range(4))
        self.seg = nn.Conv2d(HIDDEN, CLASSES, 1)
        self.eval()

    def features(self, x):
        total, maps = 0, stage_maps(self.backbone, x)[0]
        for level, layers in zip(self.neck(maps), self.scales, strict=True):
            for layer in layers:
                level = F.relu(layer['bn'](layer['conv'](level)))
                if layers is not self.scales[0]:
                    level = F.interpolate(level, scale_factor=2, mode='bilinear')
            total = total + (level if layers is self.scales[0] else
                             F.interpolate(level, total.shape[2:], mode='bilinear'))
        return total

    def names(self):
        """Its tensors as mmseg 0.x and the authors name them."""
        tensors = {f'backbone.{name}': value for name, value in official_names(self.backbone.state_dict()).items()}
        tensors |= self.neck.names()
        for level, layers in enumerate(self.scales):
            for number, layer in enumerate(layers):
                tensors |= {f'decode_head.scale_heads.{level}.{2 * number}.{name}': value
                            for name, value in layer.state_dict().items()}
        return tensors | {f'decode_head.conv_seg.{name}': value for name, value in self.seg.state_dict().items()}


def prepare(path):
    """As published: a short side of 512, both sides up to a multiple of 32, RGB, ImageNet's statistics."""
    image = resize_within(cv2.imread(str(path)), 2048, 512)
    height, width = (-(-side // 32) * 32 for side in image.shape[:2])
    return normalise(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


@torch.no_grad()
def calibrate(model, image):
    """Give the levels one size, and the classes a chance each, so that labels differ from place to place."""
    model.neck.calibrate(stage_maps(model.backbone, image)[0])
    standardise(model.seg, model.seg(model.features(image)))


@torch.no_grad()
def predict(model, path):
    """The label of each pixel, counted from 0."""
    image, size = prepare(path), cv2.imread(str(path)).shape[:2]
    logits = F.interpolate(model.seg(model.features(image)), image.shape[2:], mode='bilinear')
    return F.interpolate(logits, size, mode='bilinear')[0].argmax(0).numpy()


def scores(predictions, truths):
    """mIoU, mAcc and aAcc in percent, of labels counted from 1 where 0 does not count."""
    matrix = np.zeros((CLASSES, CLASSES))
    for prediction, truth in zip(predictions, truths, strict=True):
        np.add.at(matrix, (truth[truth > 0] - 1, prediction[truth > 0]), 1)
    right, true, found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid='ignore'):
        ious, accuracies = right / (true + found - right), right / true
    return {'mIoU': 100 * np.nanmean(ious), 'mAcc': 100 * np.nanmean(accuracies),
            'aAcc': 100 * right.sum() / true.sum()}


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """Folders of images and weights, and the expected figures."""
    root = tmp_path_factory.mktemp('ade')
    images, labels = (root / 'data' / kind / 'validation' for kind in ('images', 'annotations'))
    for folder in (images, labels, root / 'weights'):
        folder.mkdir(parents=True)
    for number, (height, width) in enumerate(((120, 150), (136, 97))):
        draw_clouds(images / f'{number}.jpg', height, width, seed=number)
    model, paths = SemanticFpn(), sorted(images.iterdir())
    calibrate(model, prepare(paths[0]))
    predictions = [predict(model, path) for path in paths]
    assert len(np.unique(np.concatenate([labels.ravel() for labels in predictions]))) > 20
    truths = []
    for path, prediction in zip(paths, predictions, strict=True):
        truth = prediction + 1
        truth[:, :30] = (prediction[:, :30] + 75) % CLASSES + 1  # wrong
        truth[:10] = 0  # not labelled
        truths.append(truth)
        cv2.imwrite(str(labels / f'{path.stem}.png'), truth.astype(np.uint8))
    torch.save({'state_dict': model.names(), 'meta': {'mmseg_version': '0.30.0'}},
               root / 'weights' / 'repvit_m1_1_ade20k.pth')
    return root, scores(predictions, truths)


@pytest.mark.slow
def test_the_table_has_the_figures_of_the_model_written_out(published, tmp_path):
    root, expected = published
    measured = reproduce('ade20k', 'ADE20K', root, tmp_path / 'out', SMALL)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=0.1)
    assert 1 < expected['mIoU'] < 99


PIPELINE = 'test_dataloader.dataset.pipeline'
#: What is altered -> key and value in the config.
ALTERATIONS = {
    'nothing': None,
    'tap': ('model.backbone.feature_tap', 'penultimate'),
    'mean': ('model.data_preprocessor.mean', [127.5, 127.5, 127.5]),
    'standard deviation': ('model.data_preprocessor.std', [64., 64., 64.]),
    'order of the channels': ('model.data_preprocessor.bgr_to_rgb', False),
    'size': (f'{PIPELINE}.1.scale', (2048, 480)),
    'multiple': (f'{PIPELINE}.2.size_divisor', 64),
    'interpolation': ('model.decode_head.align_corners', True),
}


@pytest.fixture(scope='module')
def weights(published):
    return load_weights(CONFIG, published[0] / 'weights' / 'repvit_m1_1_ade20k.pth')


@pytest.mark.slow
@pytest.mark.parametrize('setting', ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_number_on_the_way_shows(published, weights, setting):
    root, expected = published
    measured = measure(CONFIG, weights, root / 'data', dict([setting] if setting else []))
    difference = abs(measured['aAcc'] - expected['aAcc'])
    assert difference > 0.5 if setting else difference < 0.1


@pytest.mark.slow
def test_classes_counted_from_elsewhere_are_refused(published, tmp_path):
    root, _ = published
    status, _, error = run_tool('test', CONFIG, root / 'weights' / 'repvit_m1_1_ade20k.pth', '--data-root',
                                root / 'data', '--work-dir', tmp_path, '--cfg-options', *SMALL,
                                'test_dataloader.dataset.reduce_zero_label=False')
    assert status == 1 and 'for 150 classes, expected 0-149 and 255' in error
