"""The quickstart from nothing to its summary, as far as a few steps of training go."""
import re
import shlex
from pathlib import Path

import pytest
from running import load_tool, run_tool

SMALL = ('--train-scenes', '6', '--val-scenes', '2', '--cfg-options', 'train_cfg.max_iters=2',
         'train_cfg.val_interval=2', 'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2')


@pytest.mark.slow
def test_quickstart_goes_from_nothing_to_a_summary(tmp_path):
    run = run_tool('quickstart', '--work-dir', tmp_path / 'run', *SMALL)
    assert run.status == 0, run.err + run.out
    figures = dict(re.findall(r'^(\w+ AP) +([\d.]+)$', run.out, re.M))
    assert set(figures) == {'box AP', 'mask AP'}
    page = (tmp_path / 'run/report.html').read_text()
    assert '<h2>Training</h2>' in page and f"<td>coco/segm_mAP</td><td>{float(figures['mask AP']):.4g}</td>" in page
    commands = [line for line in run.out.splitlines() if re.search(r'tools/\w+\.py ', line)]
    assert len(commands) == 3
    for command in commands:
        _, tool, *arguments = shlex.split(command)
        load_tool(Path(tool).stem).build_parser().parse_args(arguments)
        assert all(Path(word).exists() for word in [tool, *arguments[:2]] if word != 'DIR')
    for name in ('train/iter_2.pth', 'train/fused.pth', 'report.html'):
        assert str(tmp_path / 'run' / name) in run.out and (tmp_path / 'run' / name).is_file()


@pytest.mark.parametrize('arguments, status, message', [
    (('--train-scenes', '0'), 2, 'quickstart.py: error: argument --train-scenes: expected a whole number, at least 1'),
    (('--seed', '-1'), 2, 'quickstart.py: error: argument --seed: expected a whole number from 0 to 4294967295'),
    (('--cfg-options', 'optimiser=1'), 1, 'error: --cfg-options optimiser: unknown setting optimiser')])
def test_mistake_is_one_line(tmp_path, arguments, status, message):
    run = run_tool('quickstart', '--work-dir', tmp_path / 'run', *arguments)
    assert run.status == status
    assert run.err.splitlines()[-1].startswith(message) and 'Traceback' not in run.err
