"""Processes of a run, which report once; tools run as processes: what is shown and kept, how they fail and stop."""
import io
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from repvit_mm.cli.arguments import Parser, add_common_arguments
from repvit_mm.engine import mistakes
from repvit_mm.engine.mistakes import one_report
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
    run('print("before")')
    run('import sys; print(sys.argv[1]); print("noise"); print("warning", file=sys.stderr)', PROGRESS)
    assert run.shown == '  Iter(train) [ 50/100]  eta: 0:05:44  time: 0.6264  loss: 3.0626\n'
    assert sorted(run.log.splitlines()) == sorted(['before', PROGRESS, 'noise', 'warning'])


@pytest.mark.parametrize(('script', 'error', 'message'), [
    ('raise SystemExit("error: no data set there")', UserError, '^no data set there$'),
    ('raise ValueError("oops")', UserError, r'tool.py failed with status 1: ValueError: oops; .* is in .*output\.log'),
    ('raise SystemExit(130)', KeyboardInterrupt, None)])
def test_a_tool_that_fails_raises_its_error(run, script, error, message):
    with pytest.raises(error, match=message):
        run(script)


# Ctrl-C reaches both processes, kill -INT only one; the tool is stopped in either case, even if it will not listen.
@pytest.mark.parametrize('handler', ['signal.default_int_handler', 'signal.SIG_IGN'])
def test_tool_is_stopped_with_us(tmp_path, handler):
    (tmp_path / 'tool.py').write_text(f'import signal, time; signal.signal(signal.SIGINT, {handler}); '
                                      'print("INFO - Iter(train)", flush=True); time.sleep(60)')
    ours = subprocess.Popen([sys.executable, '-c', f"""
import repvit_mm_cli
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
    assert ours.stdout.read().strip() == 'stopped'
    assert ours.wait() == 0 and time.monotonic() - start < 10


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_launcher_that_did_not_start_the_process(launcher, monkeypatch):
    for variable in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(variable, raising=False)
    parser = Parser('')
    add_common_arguments(parser)
    with pytest.raises(ConfigError, match=rf'--launcher {launcher} is for processes that it .*, but \w+ is not set'):
        parser.parse_args(['--launcher', launcher])


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
