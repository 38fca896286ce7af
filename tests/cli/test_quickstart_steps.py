"""The steps of the quickstart with tools that only pretend to train: what is begun, gone on with, and kept."""
import io
import json
from contextlib import suppress

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as mask_utils
from rich.console import Console

from repvit_mm.cli.quickstart import Quickstart, check_unchanged, draw_detections, draw_losses
from repvit_mm.datasets.shapes import draw_scene
from repvit_mm.errors import UserError

# Writes a checkpoint an "epoch" until it has three; breaks off as the file `how` says.
TRAIN = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--work-dir', type=pathlib.Path)
parser.add_argument('--resume', action='store_true')
args = parser.parse_args()
how = pathlib.Path(__file__).with_name('how').read_text()
done = len(list(args.work_dir.glob('epoch_*.pth'))) if args.resume else 0
for epoch in range(done + 1, 4):
    (args.work_dir / f'epoch_{epoch}.pth').write_text(pathlib.Path(args.config).read_text())
    (args.work_dir / 'last_checkpoint').write_text(str(args.work_dir / f'epoch_{epoch}.pth'))
    print(f'INFO - Epoch(train) {epoch}')
    if how == 'interrupt' and epoch == 2:
        sys.exit(130)
    if how == 'fail':
        sys.exit('error: it does not work')
"""
TEST = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('checkpoint')
parser.add_argument('--work-dir', type=pathlib.Path)
args = parser.parse_args()
settings = {}
exec(pathlib.Path(args.config).read_text(), settings)
pathlib.Path(settings['test_evaluator']['outfile_prefix'] + '.segm.json').write_text(args.checkpoint)
(args.work_dir / '20260101').mkdir()
(args.work_dir / '20260101' / '20260101.json').write_text(json.dumps({'coco/segm_mAP': .5, 'time': .1}))
"""
CONFIG = """
train_dataloader = dict(dataset=dict(type='CocoDataset', data_root='data/shapes/', ann_file='a.json'))
test_evaluator = dict(type='CocoMetric')
lr = 1
"""


@pytest.fixture
def job(tmp_path):
    """Makes a job, ``how`` its training goes and what else is given; ``job.shown()`` is its output."""
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'train.py').write_text(TRAIN)
    (tools / 'test.py').write_text(TEST)
    output = io.StringIO()

    def job(how='', seed=0, scenes=(4, 2), lr=1):
        (tools / 'how').write_text(how)
        cfg = Config.fromstring(CONFIG.replace('lr = 1', f'lr = {lr}'), '.py')
        return Quickstart(cfg, tools, tmp_path / 'work', seed, scenes, Console(file=output, width=200))

    def shown():
        text = output.getvalue()
        output.truncate(output.seek(0))
        return text

    job.shown = shown
    return job


def epochs_of(text):
    return [int(line.rpartition(' ')[2]) for line in text.splitlines() if 'Epoch(train)' in line]


def test_training_gives_its_last_checkpoint(job):
    quickstart = job()
    checkpoint = quickstart.train()
    assert checkpoint == quickstart.training / 'epoch_3.pth'
    assert epochs_of(job.shown()) == [1, 2, 3]


def test_tools_get_seed_and_data_set_in_the_config(job):
    quickstart = job(seed=5)
    quickstart.train()
    cfg = Config.fromfile(quickstart.config)
    assert cfg.randomness == dict(seed=5)
    assert cfg.train_dataloader.dataset.data_root == f'{quickstart.data}/'


def test_finished_training_is_not_repeated(job):
    job().train()
    job.shown()
    assert job().train().name == 'epoch_3.pth'
    assert epochs_of(job.shown()) == []


def test_interrupted_training_goes_on(job):
    with pytest.raises(KeyboardInterrupt):
        job('interrupt').train()
    assert 'run the same command again' in job.shown()
    assert job().train().name == 'epoch_3.pth'
    text = job.shown()
    assert 'resuming from' in text and epochs_of(text) == [3]


@pytest.mark.parametrize('change', [dict(seed=1), dict(scenes=(5, 2)), dict(lr=2)])
def test_other_settings_start_anew(job, change):
    with pytest.raises(KeyboardInterrupt):
        job('interrupt').train()
    job.shown()
    job(**change).train()
    text = job.shown()
    assert 'with other settings' in text and epochs_of(text) == [1, 2, 3]


@pytest.mark.parametrize('how', ['', 'interrupt'])
def test_fresh_starts_anew(job, how):
    with suppress(KeyboardInterrupt):
        job(how).train()
    job.shown()
    job().train(fresh=True)
    assert epochs_of(job.shown()) == [1, 2, 3]


def test_failed_training_says_why_and_is_not_taken_for_done(job):
    with pytest.raises(UserError, match='it does not work'):
        job('fail').train()
    job.shown()
    job().train()
    assert epochs_of(job.shown()) == [2, 3]


def test_missing_checkpoint_is_trained_again(job):
    job().train()
    for path in job().training.glob('*.pth'):
        path.unlink()
    job.shown()
    assert job().train().is_file()
    assert epochs_of(job.shown()) == [1, 2, 3]


@pytest.mark.parametrize('fresh', [False, True])
def test_other_files_are_left_alone(job, fresh):
    quickstart = job()
    quickstart.training.mkdir(parents=True)
    (quickstart.training / 'epoch_12.pth').write_text('weeks of work')
    with pytest.raises(UserError, match='holds files that are not from a quickstart'):
        quickstart.train(fresh)
    assert (quickstart.training / 'epoch_12.pth').read_text() == 'weeks of work'


def test_evaluation_replaces_the_one_before(job):
    quickstart = job()
    quickstart.train()
    for checkpoint in ('a.pth', 'b.pth'):
        assert quickstart.evaluate(checkpoint, 'trained') == {'coco/segm_mAP': .5, 'time': .1}
    assert (quickstart.work_dir / 'predictions.segm.json').read_text() == 'b.pth'


def test_data_set_is_drawn_into_the_work_directory(job):
    quickstart = job(seed=3, scenes=(2, 1))
    quickstart.draw()
    assert len(list((quickstart.data / 'images').glob('*/*.png'))) == 3
    assert json.loads((quickstart.data / 'shapes.json').read_text())['seed'] == 3


@pytest.mark.parametrize('difference, same', [(0, True), (.001, True), (-.003, False), (.1, False)])
def test_change_by_fusion_is_noticed(difference, same):
    trained = {'coco/bbox_mAP': .5, 'coco/segm_mAP_50': .7, 'time': .1}
    fused = {**trained, 'coco/segm_mAP_50': .7 + difference, 'time': .05}
    if same:
        check_unchanged(trained, fused)
    else:
        with pytest.raises(RuntimeError, match='fusion changed coco/segm_mAP_50 from 0.7 to'):
            check_unchanged(trained, fused)


def test_losses_are_drawn(tmp_path):
    lines = [dict(step=step, loss=30 / step, loss_cls=15 / step, lr=1e-3) for step in (10, 20, 30)]
    draw_losses([*lines, {'mIoU': 0.5, 'step': 1}], tmp_path / 'losses.png')
    pixels = np.array(Image.open(tmp_path / 'losses.png').convert('RGB'))
    assert pixels.shape == (675, 1200, 3)
    assert (pixels < 60).all(-1)[80:580, 500:1100].any(0).all(), 'the total loss goes across'


@pytest.fixture
def sheet(tmp_path):
    """Draws the perfect predictions of two scenes, scored ``score``."""
    def sheet(score, copies=1):
        images, results = [dict(id=index, file_name=f'{index}.png') for index in range(2)], []
        for image in images:
            scene = draw_scene(image['id'], 96)
            Image.fromarray(scene.image).save(tmp_path / image['file_name'])
            for label, mask in zip(scene.labels, scene.masks, strict=True):
                runs = mask_utils.encode(np.asfortranarray(mask, np.uint8))
                results += [dict(image_id=image['id'], category_id=(label + i) % 8 + 1, score=score - i / 10,
                                 bbox=mask_utils.toBbox(runs).tolist(), segmentation=runs) for i in range(copies)]
        draw_detections(results, images, tmp_path, tmp_path / 'sheet.png')
        return np.array(Image.open(tmp_path / 'sheet.png')).astype(int)
    return sheet


def test_predictions_above_the_score_are_drawn_over_the_images(sheet):
    certain, doubtful = sheet(0.9), sheet(0.1)
    assert certain.shape == doubtful.shape == (392, 4 * 392, 3)  # a row of four
    assert 0.02 < (np.abs(certain - doubtful).max(-1) > 30).mean() < 0.6


def test_of_several_guesses_at_an_object_the_best_one_is_drawn(sheet):
    assert np.array_equal(sheet(0.9, copies=3), sheet(0.9))
