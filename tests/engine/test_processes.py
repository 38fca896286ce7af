"""Processes of a run, which report once; tools run as processes: what is shown and kept, how they fail and stop."""
import io
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from repvit_mm.engine import mistakes, processes
from repvit_mm.engine.mistakes import check_launcher, one_report
from repvit_mm.engine.processes import run_tool
from repvit_mm.errors import ConfigError, UserError


@pytest.fixture
def run(tmp_path):
    """Runs a script as a tool; returns what is shown."""
    def run(script, *arguments):
        tool, shown = tmp_path / 'tool.py', io.StringIO()
        tool.write_text(script)
        try:
            run_tool(tool, arguments, tmp_path / 'logs' / 'output.log', Console(file=shown, width=200))
        finally:
            run.shown, run.log = shown.getvalue(), (tmp_path / 'logs' / 'output.log').read_text()
    return run


PROGRESS = ('11/21 09:12:45 - mmengine - INFO - Iter(train) [ 50/100]  lr: 9.8e-04  eta: 0:05:44  time: 0.6264  '
            'data_time: 0.0213  grad_norm: 4.1  loss: 3.0626  loss_cls: 1.2503  acc: 75.0')


def test_progress_is_shown_and_everything_is_kept(run):
    run('import sys; print(sys.argv[1]); print("noise"); print("warning", file=sys.stderr)', PROGRESS)
    assert run.shown == '  Iter(train) [ 50/100]  eta: 0:05:44  time: 0.6264  loss: 3.0626\n'
    assert sorted(run.log.splitlines()) == sorted([PROGRESS, 'noise', 'warning'])


def test_log_is_continued(run):
    run('print("first")')
    run('print("second")')
    assert run.log == 'first\nsecond\n'


def test_mistake_of_the_tool_is_passed_on_as_one_line(run):
    with pytest.raises(UserError, match='^no data set there$'):
        run('import sys; print("error: no data set there", file=sys.stderr); sys.exit(1)')


def test_bug_of_the_tool_names_the_log(run):
    with pytest.raises(UserError, match=r'tool.py failed with status 1: ValueError: oops; .* is in .*output\.log'):
        run('raise ValueError("oops")')
    assert 'Traceback' in run.log


def test_interrupted_tool_interrupts_us(run):
    with pytest.raises(KeyboardInterrupt):
        run('raise SystemExit(130)')


# Ctrl-C reaches both processes, kill -INT only one; the tool is stopped in either case, even if it will not listen.
@pytest.mark.parametrize('tool, expected', [
    ('import time; print("Iter(train) INFO - Iter(train)", flush=True); time.sleep(60)', 'stopped'),
    ('import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print("INFO - Iter(train)", flush=True)\n'
     'time.sleep(60)', 'stopped')])
def test_tool_is_stopped_with_us(tmp_path, tool, expected):
    (tmp_path / 'tool.py').write_text(tool)
    ours = subprocess.Popen([sys.executable, '-c', f"""
from pathlib import Path
from rich.console import Console
from repvit_mm.engine import processes
processes._PATIENCE = .5
try:
    processes.run_tool(Path({str(tmp_path / 'tool.py')!r}), [], Path({str(tmp_path / 'log')!r}), Console())
except KeyboardInterrupt:
    print('stopped')
"""], stdout=subprocess.PIPE, text=True)
    assert 'Iter(train)' in ours.stdout.readline()
    start = time.monotonic()
    ours.send_signal(signal.SIGINT)
    assert ours.stdout.read().strip() == expected
    assert ours.wait() == 0 and time.monotonic() - start < 10


def test_patience_is_enough_to_save_a_checkpoint():
    assert processes._PATIENCE >= 5


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_launcher_that_did_not_start_the_process(launcher, monkeypatch):
    for variable in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f'--launcher {launcher} is for processes that were started by it'):
        check_launcher(launcher)
    check_launcher('none')


@pytest.mark.parametrize(('error', 'status'), [(UserError('x'), 1), (KeyboardInterrupt(), 130)])
def test_only_the_first_process_of_a_machine_reports(monkeypatch, error, status):
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(type(error)), one_report():
        raise error
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as end, one_report():
        raise error
    assert end.value.code == status


def test_a_local_rank_that_is_no_number(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', 'abc')
    with pytest.raises(ConfigError, match='LOCAL_RANK=abc must be a whole number'), one_report():
        raise UserError('x')


def test_the_first_process_that_fails_reports_once_they_know_each_other(monkeypatch):
    store = torch.distributed.HashStore()
    monkeypatch.setattr(mistakes.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(mistakes.distributed.distributed_c10d, '_get_default_store', lambda: store)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(RuntimeError, match='out of memory'), one_report():
        raise RuntimeError('out of memory')
    with pytest.raises(UserError), one_report():  # as the first, on whatever rank
        raise UserError('x')
    for error in (UserError('x'), RuntimeError('connection closed by peer')):
        with pytest.raises(SystemExit) as end, one_report():
            raise error
        assert end.value.code == 1
