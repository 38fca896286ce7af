"""Tools run as processes: what is shown and kept, how they fail and stop."""
import io
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from repvit_mm.errors import UserError
from repvit_mm.zoo.processes import run_tool


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
from repvit_mm.zoo import processes
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
