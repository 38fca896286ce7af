"""The accuracy of a published classifier, from a file in the authors' format and a folder of images to the table.

The expected figure is from timm's model and torchvision's transforms. Each number on the way is altered in turn: that
has to show in the table.
"""
import json

import pytest
import timm
import torch
import torchvision
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmpretrain.datasets import custom
from PIL import Image
from published_files import draw, official_names, random_model, save_classifier, spread_head
from running import run_tool

from repvit_mm.engine.config import load_config
from repvit_mm.engine.prepare import move_data_root
from repvit_mm.models.inference import build_inference_model
from repvit_mm.training.head import RepViTClsHead
from repvit_mm.zoo.rows import ROOT

MODEL = 'repvit_m0_9_distill_300e'
IMAGES, RIGHT = 20, 14
SMALL = ['test_dataloader.batch_size=10', 'test_dataloader.num_workers=0', 'model.teacher=None']


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """Folders of images and weights, and the expected top-1."""
    root = tmp_path_factory.mktemp('imagenet')
    pictures = root / 'pictures'
    pictures.mkdir()
    for seed in range(IMAGES):
        image, exif = draw(seed), Image.Exif()
        exif[0x0112] = 6 if seed % 5 == 0 else 1  # says that it is to be turned; torchvision does not
        (image.convert('L') if seed == 3 else image).save(pictures / f'{seed}.jpg', quality=92, exif=exif)
    transform = torchvision.transforms.Compose([
        torchvision.transforms.Resize(256, torchvision.transforms.InterpolationMode.BICUBIC),
        torchvision.transforms.CenterCrop(224), torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    images = torch.stack([transform(Image.open(pictures / f'{seed}.jpg').convert('RGB')) for seed in range(IMAGES)])
    model = random_model('repvit_m0_9')
    spread_head(model, images)
    with torch.no_grad():
        scores = model(images).softmax(1).topk(2)
    for label in range(1000):
        (root / 'data' / 'val' / f'n{label:08d}').mkdir(parents=True)
    for seed in range(IMAGES):
        label = int(scores.indices[seed, 0]) if seed < RIGHT else (int(scores.indices[seed, 1]) + 500) % 1000
        (pictures / f'{seed}.jpg').rename(root / 'data' / 'val' / f'n{label:08d}' / f'{seed}.jpg')
    assert len(set(scores.indices[:, 0].tolist())) > IMAGES // 2
    (root / 'weights').mkdir()
    save_classifier(model, root / 'weights' / f'{MODEL}.pth')
    return root


def test_the_made_file_has_the_names_of_timms_model():
    model = timm.create_model('repvit_m0_9', pretrained=False)
    names = list(official_names(model.state_dict()))
    assert len(set(names)) == len(names) == len(model.state_dict())
    # From the published file.
    assert {'features.0.0.c.weight', 'features.0.2.bn.running_var', 'features.1.token_mixer.1.fc1.weight',
            'features.1.token_mixer.0.conv1.bias', 'features.4.token_mixer.2.c.weight',
            'features.24.channel_mixer.m.2.bn.weight', 'classifier.classifier_dist.l.bias'} <= set(names)


@pytest.mark.slow
def test_the_table_has_the_accuracy_of_timm_and_torchvision(published, tmp_path):
    status, _, error = run_tool(
        'reproduce_tables', 'imagenet', '--models', MODEL, '--data-root', f'imagenet={published / "data"}', '--weights',
        published / 'weights', '--out', tmp_path / 'out', '--cfg-options', *SMALL)
    assert status == 0, error
    figures = {figure['name']: figure for figure in json.loads((tmp_path / 'out/tables.json').read_text())['figures']}
    top1 = figures.pop('Top 1 Accuracy')
    assert top1['measured'] == pytest.approx(100 * RIGHT / IMAGES, abs=1e-4)
    assert all(round(figure['measured'], figure['decimals']) == figure['published'] for figure in figures.values())
    table = (tmp_path / 'out' / 'tables.md').read_text()
    assert 'Top 1 Accuracy, ImageNet-1k | 78.7 | 70.00 | -8.70 |' in table


CONFIG = ROOT / f'configs/classification/{MODEL}.py'


@pytest.fixture(scope='module')
def model(published):
    return build_inference_model(CONFIG, published / 'weights' / f'{MODEL}.pth').model


def top1(published, model, options=None):
    """Accuracy of the loaded model with the data set, the transforms and the normalisation of the config."""
    cfg = load_config(CONFIG, options)
    move_data_root(cfg, str(published / 'data'))
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.no_grad():
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        model.data_preprocessor = MODELS.build(cfg.data_preprocessor)
        samples = model.test_step(pseudo_collate([dataset[number] for number in range(len(dataset))]))
    assert len(samples) == IMAGES
    return 100 * sum(int(sample.pred_label == sample.gt_label) for sample in samples) / IMAGES


PIPELINE = 'test_dataloader.dataset.pipeline'
#: What is altered -> the setting of the config that does it.
ALTERATIONS = {
    'mean': ('data_preprocessor.mean', [127.5, 127.5, 127.5]),
    'standard deviation': ('data_preprocessor.std', [64., 64., 64.]),
    'order of the channels': ('data_preprocessor.to_rgb', False),
    'size': (f'{PIPELINE}.1.scale', 248),
    'interpolation': (f'{PIPELINE}.1.interpolation', 'bilinear'),
    'antialiasing': (f'{PIPELINE}.1.backend', 'cv2'),
    'crop': (f'{PIPELINE}.2.crop_size', 216),
    'orientation': (f'{PIPELINE}.0.color_type', 'color'),
}


def test_nothing_altered_gives_the_expected_figure(published, model):
    assert top1(published, model) == 100 * RIGHT / IMAGES


@pytest.mark.parametrize('option', ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_number_on_the_way_shows(published, model, option):
    assert top1(published, model, dict([option])) != 100 * RIGHT / IMAGES


@pytest.mark.parametrize('classifier', ['fc', 'fc_dist'])
def test_either_classifier_alone_shows(published, model, monkeypatch, classifier):
    monkeypatch.setattr(RepViTClsHead, 'forward',
                        lambda self, feats: getattr(self, classifier)(self.pre_logits(feats)))
    assert top1(published, model) != 100 * RIGHT / IMAGES


def test_another_order_of_the_classes_shows(published, model, monkeypatch):
    folders = sorted(path.name for path in (published / 'data' / 'val').iterdir())
    monkeypatch.setattr(custom, 'find_folders', lambda *_: (
        folders, {name: 999 - number for number, name in enumerate(folders)}))
    assert top1(published, model) != 100 * RIGHT / IMAGES
