"""Every row of ``bad_inputs.txt``: a bad file or option, and the one line with which a tool refuses it."""
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import bad_files
import pytest
import tool_runs
from running import TOOLS, Finished, run_tool

#: Seconds that a tool may take to refuse an input; nothing here trains for longer than that, either.
PATIENCE = 120
#: Every so manieth row is also run in a process of its own, which takes seconds to import torch.
SAMPLE = 12
SHORTCUTS = {
    **{f'${name}': f'{name}.py --data-root {name} --work-dir work' for name in ('det', 'seg', 'cls')},
    '$set': '--cfg-options',
    '$sam': '--encoder repvit_m0_6 --image-size 64 --device cpu',
}


class Hang(BaseException):
    """Raised to end a tool; no tool catches it."""


class Row(NamedTuple):
    name: str
    bad: str
    command: str
    message: str


def read_rows():
    lines = Path(__file__).with_name('bad_inputs.txt').read_text().splitlines()
    rows = [[part.strip() for part in line.split(' | ')] for line in lines if line and line[0] != '#']
    assert all(len(row) == 4 for row in rows), [row for row in rows if len(row) != 4]
    return [Row(*row) for row in rows]


ROWS = read_rows()


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """Good data sets and configs, which a row spoils."""
    root = tmp_path_factory.mktemp('good')
    for name, toolbox in dict(det='mmdet', seg='mmseg', cls='mmpretrain').items():
        (root / toolbox).mkdir()
        config, data = tool_runs.set_up(toolbox, root / toolbox)
        shutil.copyfile(config, root / f'{name}.py')
        data.rename(root / name)
    shutil.copytree(root / 'det', root / 'sam')
    (root / 'sam/images/val').rename(root / 'sam/val2017')
    (root / 'sam/annotations/instances_val.json').rename(root / 'sam/annotations/instances_val2017.json')
    shutil.copyfile(next((root / 'cls/val').rglob('*.png')), root / 'picture.png')
    return root


@pytest.fixture
def spoiled(good, tmp_path, monkeypatch):
    """Makes the folder of a row, and goes there."""
    def make(row):
        words = ' '.join([*arguments(row), row.bad])
        for path in good.iterdir():
            if path.stem in re.split(r'\W+', words):
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name)
        monkeypatch.chdir(tmp_path)
        eval(row.bad or 'None', vars(bad_files))
    variables, limits = dict(os.environ), resource.getrlimit(resource.RLIMIT_FSIZE)
    yield make
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    os.environ.clear()
    os.environ.update(variables)


def arguments(row):
    command = row.command
    for shortcut, words in SHORTCUTS.items():
        command = command.replace(shortcut, words)
    return shlex.split(command)


def in_process(command):
    def give_up(*_):
        raise Hang(f'no answer after {PATIENCE} seconds')
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        return run_tool(*command)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def in_own_process(command):
    tool, *options = command
    done = subprocess.run([sys.executable, TOOLS / f'{tool}.py', *options], capture_output=True, text=True,
                          timeout=PATIENCE, env={**os.environ, 'PYTHONPATH': str(TOOLS.parent)})
    return Finished(done.returncode, done.stdout, done.stderr)


def check(row, done):
    """One line that says what is wrong, as an error of the tool or of its usage; and nothing was run."""
    last = done.err.strip().splitlines()[-1] if done.err.strip() else ''
    assert row.message in last, done.err[-3000:]
    assert 'Traceback' not in done.err + done.out
    if done.status == 2:  # argparse's
        assert done.err.startswith('usage: ')
    else:
        assert done.status == 1 and last.startswith('error: ') and done.err.count('error: ') == 1
    assert not Path('EXECUTED').exists()


@pytest.mark.trust
@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_line(row, spoiled):
    spoiled(row)
    check(row, in_process(arguments(row)))


@pytest.mark.parametrize('row', [row for row in ROWS if row.command[:7] == 'convert'][::4], ids=lambda row: row.name)
def test_bad_checkpoint_is_one_line(row, spoiled):
    """The short form: rows that take a few milliseconds."""
    spoiled(row)
    check(row, in_process(arguments(row)))


@pytest.mark.trust
@pytest.mark.parametrize('row', ROWS[::SAMPLE], ids=lambda row: row.name)
def test_bad_input_is_one_line_from_the_shell(row, spoiled):
    spoiled(row)
    check(row, in_own_process(arguments(row)))


def test_table_is_well_formed():
    assert len(ROWS) >= 150
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.message for row in ROWS)
