"""docs/openmmlab_tools.md: a script of each toolbox, and the config, run as written there, on small runs."""
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.fileio import PickleHandler
from mmengine.fileio.handlers import file_handlers
from running import run_tool
from tool_runs import write_config

from repvit_mm.datasets.shapes import write_coco, write_segmentation

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'openmmlab_tools.md').read_text()
CONFIGS = {'DET': 'maskrcnn_repvit_m0_6_shapes', 'SEG': 'fpn_repvit_m0_6_shapes'}


def arguments(line):
    """The words of a command on the page, as a shell gives them, with the small runs' names."""
    for word in shlex.split(line.replace('iter_1450', 'iter_2').replace('work_dirs/cls', 'work_dirs/det')):
        found = sorted(Path().glob(word)) if '*' in word else [word]
        yield from (f'{path}.py' if path in CONFIGS else str(path) for path in found)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with the detector's runs that the page starts from, of two steps each."""
    folder = tmp_path_factory.mktemp('openmmlab')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_coco('data/shapes_detection', size=64, train=4, val=4, quiet=True)
        write_segmentation('data/shapes_segmentation', size=64, train=4, val=4, quiet=True)
        for kind, name in CONFIGS.items():
            write_config(Path(f'{kind}.py'), name, 'train_cfg = dict(max_iters=2, val_interval=2)')
        for tool, line in re.findall(r'^python tools/(train|test)\.py (DET .*)$', PAGE, re.M):
            result = run_tool(tool, *arguments(line))
            assert result.status == 0, result.err
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    monkeypatch.setattr(sys, 'path', sys.path[:])
    # The tools that made the runs, in this process, keep pickles from being read; scripts read those of the user.
    for suffix in ('pkl', 'pickle'):
        monkeypatch.setitem(file_handlers, suffix, PickleHandler())
    return runs


@pytest.mark.parametrize('start', ['mmdet confusion_matrix', 'mmpretrain analyze_logs plot_curve', 'mmseg get_flops'])
def test_the_script_runs(here, start):
    line, *_ = re.findall(rf'^repvit-mm toolbox ({start} .+?)(?:  #.*)?$', PAGE, re.M)
    words = list(arguments(line))
    result = run_tool('toolbox', *words)
    assert result.status == 0 and 'Traceback' not in result.err, result.err
    for path in [path for path in words[4:] if path.startswith('work_dirs')]:
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
