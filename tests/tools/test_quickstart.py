"""The quickstart from nothing to its summary, as far as a few steps of training go."""
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from running import load_tool, run_tool

SMALL = ('--train-scenes', '6', '--val-scenes', '2', '--cfg-options', 'train_cfg.max_iters=2',
         'train_cfg.val_interval=2', 'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2')


@pytest.mark.slow
def test_quickstart_goes_from_nothing_to_a_summary(tmp_path):
    run = run_tool('quickstart', '--work-dir', tmp_path / 'run', *SMALL)
    assert run.status == 0, run.err + run.out
    rows = dict(re.findall(r'│ (\w[\w ]*?) +│ +([\d.,]+ +│ +[\d.,]+) +│', run.out))
    assert set(rows) == {'box AP', 'box AP50', 'mask AP', 'mask AP50', 'parameters'}
    for name in ('box AP', 'box AP50', 'mask AP', 'mask AP50'):
        trained, fused = rows[name].split('│')
        assert float(trained) == pytest.approx(float(fused), abs=.002)
    before, after = (int(number.replace(',', '')) for number in rows['parameters'].split('│'))
    assert after < before
    for name in ('losses.png', 'predictions.png'):
        assert str(tmp_path / 'run' / name) in run.out
        assert min(Image.open(tmp_path / 'run' / name).size) > 300
    commands = [line for line in run.out.splitlines() if re.search(r'tools/\w+\.py ', line)]
    assert len(commands) == 2
    for command in commands:
        _, tool, *arguments = shlex.split(command)
        load_tool(Path(tool).stem).build_parser().parse_args(arguments)
        assert all(Path(word).exists() for word in [tool, *arguments[:2]])
    for name in ('train/iter_2.pth', 'fused.pth'):
        assert str(tmp_path / 'run' / name) in run.out and (tmp_path / 'run' / name).is_file()


@pytest.mark.parametrize('arguments, status, message', [
    (('--train-scenes', '0'), 2, 'quickstart.py: error: argument --train-scenes: expected a whole number, at least 1'),
    (('--seed', '-1'), 2, 'quickstart.py: error: argument --seed: expected a whole number from 0 to 4294967295'),
    (('--cfg-options', 'optimiser=1'), 1, 'error: --cfg-options optimiser: unknown setting optimiser')])
def test_mistake_is_one_line(tmp_path, arguments, status, message):
    run = run_tool('quickstart', '--work-dir', tmp_path / 'run', *arguments)
    assert run.status == status
    assert run.err.splitlines()[-1].startswith(message) and 'Traceback' not in run.err
