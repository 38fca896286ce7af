"""The mIoU of a published segmentor, from a file in the authors' format and label images to the table.

The expected figures are those of timm's backbone, a Semantic FPN written out here, and a confusion matrix in NumPy.
"""
import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_files import official_names, random_model
from tool_runs import run
from torch import nn

from repvit_mm.zoo.rows import ROOT

pytest.importorskip('mmseg')

CONFIG = ROOT / 'configs/segmentation/fpn_repvit_m1_1.py'
WIDTHS, CHANNELS, HIDDEN, CLASSES = (64, 128, 256, 512), 256, 128, 150
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SMALL = ['test_dataloader.num_workers=0']


class SemanticFpn(nn.Module):
    """Panoptic FPN's semantic branch (https://arxiv.org/abs/1901.02446) on the ends of the stages."""

    def __init__(self):
        super().__init__()
        self.backbone = random_model('repvit_m1_1', num_classes=0)
        torch.manual_seed(1)
        self.lateral = nn.ModuleList(nn.Conv2d(width, CHANNELS, 1) for width in WIDTHS)
        self.fpn = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in WIDTHS)
        self.scales = nn.ModuleList(nn.ModuleList(
            nn.ModuleDict({'conv': nn.Conv2d(HIDDEN if number else CHANNELS, HIDDEN, 3, padding=1, bias=False),
                           'bn': nn.BatchNorm2d(HIDDEN)}) for number in range(max(1, level))) for level in range(4))
        self.seg = nn.Conv2d(HIDDEN, CLASSES, 1)
        self.eval()

    def maps(self, x):
        x, maps = self.backbone.stem(x), []
        for number, stage in enumerate(self.backbone.stages):
            if number:
                x = stage.downsample.pre_block(x)
                maps.append(x)
                x = stage.downsample.channel_downsample(stage.downsample.spatial_downsample(x))
                x = x + stage.downsample.ffn(x)
            x = stage.blocks(x)
        return [*maps, x]

    def features(self, x):
        levels = [conv(level) for conv, level in zip(self.lateral, self.maps(x), strict=True)]
        for number in (2, 1, 0):
            levels[number] = levels[number] + F.interpolate(levels[number + 1], levels[number].shape[2:])
        total = 0
        for level, conv, layers in zip(levels, self.fpn, self.scales, strict=True):
            level = conv(level)
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
        for level in range(4):
            for kind, convs in (('lateral', self.lateral), ('fpn', self.fpn)):
                tensors |= {f'neck.{kind}_convs.{level}.conv.{name}': value
                            for name, value in convs[level].state_dict().items()}
            for number, layer in enumerate(self.scales[level]):
                tensors |= {f'decode_head.scale_heads.{level}.{2 * number}.{name}': value
                            for name, value in layer.state_dict().items()}
        return tensors | {f'decode_head.conv_seg.{name}': value for name, value in self.seg.state_dict().items()}


def prepare(path):
    """As published: a short side of 512, both sides up to a multiple of 32, RGB, ImageNet's statistics."""
    image = cv2.imread(str(path))
    height, width = image.shape[:2]
    scale = min(2048 / max(height, width), 512 / min(height, width))
    height, width = int(height * scale + 0.5), int(width * scale + 0.5)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    image = cv2.resize(image, (-(-width // 32) * 32, -(-height // 32) * 32), interpolation=cv2.INTER_LINEAR)
    image = (image[:, :, ::-1].astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@torch.no_grad()
def calibrate(model, image):
    """Give the levels one size, and the classes a chance each, so that labels differ from place to place."""
    for conv, level in zip(model.lateral, model.maps(image), strict=True):
        conv.weight /= level.std()
    features = model.features(image)
    model.seg.bias.copy_(-model.seg.weight[:, :, 0, 0] @ features.mean((0, 2, 3)))


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
    random = np.random.RandomState(0)
    for number, (height, width) in enumerate(((120, 150), (136, 97))):
        clouds = sum(cv2.resize(random.rand(cells, cells, 3), (width, height)) for cells in (3, 9, 30)) / 3
        cv2.imwrite(str(images / f'{number}.jpg'), (255 * clouds * (0.6, 1, 1.2)).clip(0, 255).astype(np.uint8))
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
def test_the_table_has_the_figures_of_the_model_written_out(published, tmp_path, monkeypatch, capsys):
    root, expected = published
    status, error = run(monkeypatch, capsys, 'reproduce_tables', 'ade20k', '--models', 'm1_1', '--data-root',
                        root / 'data', '--weights', root / 'weights', '--out', tmp_path / 'out',
                        '--cfg-options', *SMALL)
    assert status == 0, error
    row, = json.loads((tmp_path / 'out' / 'tables.json').read_text())['rows']
    measured = {one['figure'].removesuffix(', ADE20K'): one['measured'] for one in row['figures']}
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=0.1)
    assert 1 < expected['mIoU'] < 99


PIPELINE = 'test_dataloader.dataset.pipeline'
ALTERATIONS = {
    'tap': 'model.backbone.feature_tap=penultimate',
    'mean': 'model.data_preprocessor.mean=[127.5,127.5,127.5]',
    'standard deviation': 'model.data_preprocessor.std=[64.,64.,64.]',
    'order of the channels': 'model.data_preprocessor.bgr_to_rgb=False',
    'size': f'{PIPELINE}.1.scale=(2048,480)',
    'multiple': f'{PIPELINE}.2.size_divisor=64',
    'interpolation': 'model.decode_head.align_corners=True',
}


def run_altered(published, work_dir, monkeypatch, capsys, setting):
    return run(monkeypatch, capsys, 'test', CONFIG, published / 'weights' / 'repvit_m1_1_ade20k.pth', '--data-root',
               published / 'data', '--work-dir', work_dir, '--cfg-options', *SMALL, setting)


@pytest.mark.slow
@pytest.mark.parametrize('setting', ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_number_on_the_way_shows(published, tmp_path, monkeypatch, capsys, setting):
    root, expected = published
    status, error = run_altered(root, tmp_path, monkeypatch, capsys, setting)
    assert status == 0, error
    path, = tmp_path.glob('*/*.json')
    assert abs(json.loads(path.read_text())['aAcc'] - expected['aAcc']) > 0.5


@pytest.mark.slow
def test_classes_counted_from_elsewhere_are_refused(published, tmp_path, monkeypatch, capsys):
    status, error = run_altered(published[0], tmp_path, monkeypatch, capsys,
                                'test_dataloader.dataset.reduce_zero_label=False')
    assert status == 1 and 'for 150 classes, expected 0-149 and 255' in error
