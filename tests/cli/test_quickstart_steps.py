"""The steps of the quickstart, with tools that only pretend to train: what starts, resumes and stays."""
import io
import json

import pytest
from mmengine.config import Config
from rich.console import Console

from repvit_mm.cli.quickstart import Quickstart
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
parser.add_argument('--report', type=pathlib.Path)
parser.add_argument('--work-dir', type=pathlib.Path)
args = parser.parse_args()
(args.report / 'report.html').write_text(args.checkpoint)
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


def test_a_finished_training_is_kept(job):
    quickstart = job(seed=5)
    assert quickstart.train() == quickstart.training / 'epoch_3.pth'
    assert epochs_of(job.shown()) == [1, 2, 3]
    cfg = Config.fromfile(quickstart.config)
    assert cfg.randomness == dict(seed=5) and cfg.train_dataloader.dataset.data_root == f'{quickstart.data}/'
    assert job(seed=5).train().name == 'epoch_3.pth' and epochs_of(job.shown()) == []


def test_an_interrupted_training_goes_on_or_starts_anew(job):
    with pytest.raises(KeyboardInterrupt):
        job('interrupt').train()
    assert 'run the same command again' in job.shown()
    for change in (dict(seed=1), dict(scenes=(5, 2)), dict(lr=2)):
        with pytest.raises(UserError, match='holds a quickstart with other settings: --fresh replaces it'):
            job(**change).train()
    assert job().train().name == 'epoch_3.pth'
    text = job.shown()
    assert 'resuming from' in text and epochs_of(text) == [3]
    job(lr=2).train(fresh=True)
    assert epochs_of(job.shown()) == [1, 2, 3]


def test_a_failed_training_says_why_and_goes_on(job):
    with pytest.raises(UserError, match='it does not work'):
        job('fail').train()
    job.shown()
    job().train()
    assert epochs_of(job.shown()) == [2, 3]


@pytest.mark.parametrize('fresh', [False, True])
def test_other_files_are_left_alone(job, fresh):
    quickstart = job()
    quickstart.training.mkdir(parents=True)
    (quickstart.training / 'epoch_12.pth').write_text('weeks of work')
    with pytest.raises(UserError, match='holds files that are not from a quickstart'):
        quickstart.train(fresh)
    assert (quickstart.training / 'epoch_12.pth').read_text() == 'weeks of work'


def test_a_test_replaces_the_one_before(job):
    quickstart = job(seed=3)
    quickstart.train()
    assert json.loads((quickstart.data / 'shapes.json').read_text())['seed'] == 3
    for checkpoint in ('a.pth', 'b.pth'):
        assert quickstart.test(checkpoint) == {'coco/segm_mAP': .5, 'time': .1}
        assert quickstart.report.read_text() == checkpoint
