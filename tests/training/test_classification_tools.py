"""The tools, from a folder of images to a distilled classifier that is tested and asked."""
import json
import pickle

import numpy as np
import pytest
import torch
from mmpretrain import ImageClassificationInferencer
from PIL import Image
from running import run_tool

from repvit_mm.datasets.shapes import write_classification

CONFIGS = 'configs/classification'
COLOURS = dict(blue=(40, 60, 220), green=(40, 200, 60), red=(220, 50, 40))
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SMALL = ['train_dataloader.batch_size=6', 'train_cfg.max_epochs=1', *(f'{loader}.num_workers=0' for loader in LOADERS),
         *(f'{loader}.dataset.pipeline.1.scale=32' for loader in LOADERS),
         *(f'{loader}.dataset.pipeline.2.crop_size=32' for loader in LOADERS[1:])]


def run(tool, *args, status=0):
    """Run a tool; returns what it wrote to stderr."""
    done = run_tool(tool, *args)
    assert done.status == status, done.err
    return done.err


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Images of one colour each; the colour is the class."""
    root = tmp_path_factory.mktemp('images')
    draw = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 4)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + draw.normal(0, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{name}{number}.jpg')
    return root


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    """Work directory of a classifier that was trained for one epoch."""
    work_dir = tmp_path_factory.mktemp('work') / 'trained'
    run('train', f'{CONFIGS}/finetune_repvit_m0_6.py', '--data-root', root, '--no-pretrained', '--work-dir', work_dir,
        '--seed', 0, '--cfg-options', *SMALL)
    return work_dir


@pytest.mark.slow
def test_a_trained_classifier_is_tested_drawn_and_asked(root, trained, tmp_path):
    config = trained / 'finetune_repvit_m0_6.py'
    run('test', config, trained / 'epoch_1.pth', '--work-dir', tmp_path, '--show-dir', tmp_path / 'show',
        '--out', tmp_path / 'predictions.pkl')
    saved = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(saved) == len(list((tmp_path / 'show').rglob('*.png'))) == 12
    image = root / 'val' / 'red' / 'red0.jpg'
    results = ImageClassificationInferencer(str(config), str(trained / 'epoch_1.pth'), device='cpu')(str(image))
    assert results[0]['pred_class'] in COLOURS and len(results[0]['pred_scores']) == 3
    same = next(sample for sample in saved if sample['img_path'] == str(image))
    assert results[0]['pred_score'] == pytest.approx(float(same['pred_score'].max()), abs=0.05), (
        'both decode JPEG almost alike')
    wrong = tmp_path / 'images'
    for name in ('blue', 'red'):
        (wrong / 'val').mkdir(parents=True, exist_ok=True)
        (wrong / 'val' / name).symlink_to(root / 'val' / name)
    error = run('test', f'{CONFIGS}/finetune_repvit_m0_6.py', trained / 'epoch_1.pth', '--data-root', wrong,
                '--work-dir', tmp_path / 'work', '--cfg-options', *SMALL, status=1)
    assert 'was trained on other classes than those of' in error and 'the config has blue, red' in error


@pytest.mark.slow
def test_a_classifier_learns_from_a_teacher_that_is_not_needed_afterwards(root, trained, tmp_path):
    options = [f'model.teacher.model={trained}/finetune_repvit_m0_6.py',
               f'model.teacher.checkpoint={trained}/epoch_1.pth']
    run('train', f'{CONFIGS}/finetune_distill_repvit_m0_6.py', '--data-root', root, '--no-pretrained', '--work-dir',
        tmp_path, '--cfg-options', *SMALL, *options)
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert not any('teacher' in name for name in saved) and 'head.fc_dist.linear.weight' in saved
    run('test', f'{CONFIGS}/finetune_distill_repvit_m0_6.py', tmp_path / 'epoch_1.pth', '--data-root', root,
        '--work-dir', tmp_path / 'test', '--cfg-options', *SMALL)
    classify = ImageClassificationInferencer(str(tmp_path / 'finetune_distill_repvit_m0_6.py'),
                                             str(tmp_path / 'epoch_1.pth'), device='cpu')
    assert classify(str(root / 'val' / 'red' / 'red0.jpg'))[0]['pred_class'] in COLOURS


@pytest.mark.slow
def test_the_quickstart_classifier_trains_on_the_shapes(tmp_path):
    write_classification(tmp_path / 'shapes', train=16, val=8, quiet=True)
    run('train', 'configs/quickstart/classifier_repvit_m0_6_shapes.py', '--data-root', tmp_path / 'shapes',
        '--work-dir', tmp_path / 'work', '--cfg-options', *SMALL[:4])
    log = next(tmp_path.glob('work/*/vis_data/scalars.json')).read_text()
    assert {'accuracy/top1', 'accuracy/top5'} <= set(json.loads(log.splitlines()[-1])), 'eight classes were found'


@pytest.mark.slow
def test_several_labels_are_trained_tested_and_drawn(tmp_path):
    root, classes = tmp_path / 'labels', ('red', 'green', 'blue')
    (root / 'images').mkdir(parents=True)
    (root / 'annotations').mkdir()
    for split, labels in (('train', [[], [0], [1], [0, 1], [2], [0, 2], [1, 2], [0, 1, 2]]), ('val', [[0], [1, 2]])):
        samples = [dict(img_path=f'{split}{number}.png', gt_label=own) for number, own in enumerate(labels)]
        for sample in samples:
            Image.new('RGB', (40, 40), tuple(255 * (label in sample['gt_label']) for label in range(3))).save(
                root / 'images' / sample['img_path'])
        content = dict(metainfo=dict(classes=classes), data_list=samples)
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    config = 'configs/classification/multilabel_repvit_m0_9.py'
    run('train', config, '--data-root', root, '--no-pretrained', '--work-dir', tmp_path / 'work',
        '--cfg-options', *SMALL)
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    assert len(saved['state_dict']['head.fc.weight']) == 3
    assert tuple(saved['meta']['dataset_meta']['classes']) == classes
    (root / 'annotations' / 'train.json').unlink()  # a test needs its own labels only
    run('test', config, tmp_path / 'work' / 'epoch_1.pth', '--data-root', root, '--work-dir', tmp_path / 'test',
        '--show-dir', tmp_path / 'show', '--report', tmp_path, '--cfg-options', *SMALL)
    assert 'predicted' in (tmp_path / 'report.html').read_text()
    metrics = json.loads(next(tmp_path.glob('test/*/*.json')).read_text())
    assert {'multi-label/mAP', 'multi-label/f1-score'} <= set(metrics)
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 2
