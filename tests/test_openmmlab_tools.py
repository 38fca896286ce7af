"""docs/openmmlab_tools.md: every script of a toolbox that it names runs as written there, on small runs."""
import multiprocessing
import re
import shlex
import sys
from functools import cache
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
from mmengine.fileio import PickleHandler
from mmengine.fileio.handlers import file_handlers
from running import run_tool

from repvit_mm.datasets.shapes import write_classification, write_coco, write_segmentation
from repvit_mm.engine.config import load_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'openmmlab_tools.md').read_text()
CONFIGS = {'DET': 'maskrcnn_repvit_m0_6_shapes', 'SEG': 'fpn_repvit_m0_6_shapes',
           'CLS': 'classifier_repvit_m0_6_shapes'}
#: On top of them, as `repvit-mm init` writes configs: two steps that are logged, without processes that load data.
SMALL = """
_base_ = 'repvit_mm::quickstart/{}.py'
train_cfg = dict({}=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
train_dataloader = dict(batch_size={}, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""
COMMANDS = re.findall(r'^repvit-mm toolbox (.+?)(?:  #.*)?$', PAGE.partition('## Scripts')[2], re.M)


@cache
def checkpoints():
    """The last checkpoint of a training of the page -> that of the small run."""
    lengths = {kind: load_config(name).train_cfg for kind, name in CONFIGS.items()}
    return {f'work_dirs/{kind.lower()}/{unit}_{cfg[key]}.pth': f'work_dirs/{kind.lower()}/{unit}_2.pth'
            for kind, cfg in lengths.items() for key, unit in (('max_iters', 'iter'), ('max_epochs', 'epoch'))
            if key in cfg}


def arguments(line):
    """The words of a command on the page, as a shell gives them, with the small runs' names."""
    for long, short in checkpoints().items():
        line = line.replace(long, short)
    for word in shlex.split(line):
        found = sorted(Path().glob(word)) if '*' in word else [word]
        yield from (f'{path}.py' if path in CONFIGS else str(path) for path in found)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with the runs that the page starts from, of two steps each."""
    folder = tmp_path_factory.mktemp('openmmlab')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_coco('data/shapes_detection', size=64, train=4, val=4, quiet=True)
        write_segmentation('data/shapes_segmentation', size=64, train=4, val=4, quiet=True)
        write_classification('data/shapes_classification', train=64, val=8, quiet=True)
        for kind, name in CONFIGS.items():
            length, batch = ('max_epochs', 32) if kind == 'CLS' else ('max_iters', 2)
            Path(f'{kind}.py').write_text(SMALL.format(name, length, batch))
        for tool, line in re.findall(r'^python tools/(train|test)\.py (.*)$', PAGE, re.M):
            result = run_tool(tool, *arguments(line))
            assert result.status == 0, result.err
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    monkeypatch.setattr(multiprocessing, 'Pool', lambda processes: ThreadPool(1))  # coco_error_analysis starts 48
    monkeypatch.setattr(sys, 'path', sys.path[:])
    # The tools that made the runs, in this process, keep pickles from being read; scripts read those of the user.
    for suffix in ('pkl', 'pickle'):
        monkeypatch.setitem(file_handlers, suffix, PickleHandler())
    return runs


@pytest.mark.parametrize('line', COMMANDS)
def test_the_script_runs(here, line):
    words = list(arguments(line))
    result = run_tool('toolbox', *words)
    assert result.status == 0, result.err
    assert 'Traceback' not in result.err
    written = [path for path in words if path.startswith('work_dirs') and
               words[words.index(path) - 1] in ('--out', '--output-dir', '--out-dir', '--show-path', '--save-path')]
    for path in written:
        assert Path(path).is_file() or any(Path(path).iterdir())


def test_the_config_of_the_page_trains(here):
    """Four batches for a step, averaged weights, and a stop when nothing gets better."""
    config, = re.findall(r'^```python\n(.+?)^```', PAGE, re.M | re.S)
    if find_spec('tensorboard') is None:
        config = config.replace(", dict(type='TensorboardVisBackend')", '')
    Path('mine.py').write_text(config)
    result = run_tool('train', 'mine.py', '--cfg-options', 'train_cfg.max_iters=12', 'train_cfg.val_interval=2',
                      'train_dataloader.batch_size=2', 'custom_hooks.2.patience=1', 'custom_hooks.2.min_delta=100',
                      'default_hooks.checkpoint.interval=2')
    assert result.status == 0, result.err
    saved, = Path('work_dirs/mine').glob('iter_*.pth')
    assert saved.name == 'iter_4.pth'  # the second test ended it
    checkpoint = torch.load(saved, weights_only=False)
    assert {state['step'].item() for state in checkpoint['optimizer']['state'].values()} == {1}
    averaged, raw = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert any(not torch.equal(value, raw[f'module.{name}']) for name, value in averaged.items())
