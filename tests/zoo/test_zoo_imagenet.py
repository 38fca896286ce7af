"""The accuracy of a published classifier, from a file in the authors' format and a folder of images to the table.

The expected figure is from timm's model and torchvision's transforms.
"""
import json

import pytest
import timm
import torch
import torchvision
from PIL import Image
from published_files import draw, official_names, random_model, save_classifier, spread_head
from running import run_tool

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
