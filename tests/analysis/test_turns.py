import os
import threading
import time
from pathlib import Path

import pytest

from repvit_mm.analysis import turns
from repvit_mm.analysis.turns import CALLS_PER_TURN, Prepared, Worker, take_turns
from repvit_mm.errors import UserError

pytestmark = pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='reads processor time from /proc')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(turns, 'WARMUP_SECONDS', 0.)
    monkeypatch.setattr(turns, 'START', 'fork')


def ticks(pid):
    """Processor time of a process, of all of its threads, in hundredths of a second."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


def spinning_engine():
    """An engine whose thread goes on working after a call, as those of onnxruntime and OpenVINO do."""
    def spin():
        while True:
            pass
    threading.Thread(target=spin, daemon=True).start()
    return Prepared(lambda: None, os.getpid())


def busy_engine(spinner, log):
    """An engine whose call notes the processor time that a process takes from it."""
    def work():
        before, end = ticks(spinner), time.process_time() + 0.1
        while time.process_time() < end:
            pass
        log.write_text(str(ticks(spinner) - before))
    return Prepared(work)


def test_an_engine_that_spins_takes_nothing_from_the_others_turns(tmp_path):
    spinner, log = Worker(spinning_engine), tmp_path / 'taken'
    try:
        spinner.turn()
        other = Worker(lambda: busy_engine(spinner.details, log))
        try:
            other.turn()
            assert int(log.read_text()) <= 1
            os.kill(spinner.details, turns.signal.SIGCONT)  # so it does spin
            deadline = time.monotonic() + 30
            while int(log.read_text()) < 5 and time.monotonic() < deadline:
                other.turn()
            assert int(log.read_text()) >= 5
        finally:
            other.close()
    finally:
        spinner.close()
    assert not Path(f'/proc/{spinner.details}').exists()


def test_functions_are_measured_in_turns(tmp_path):
    log = tmp_path / 'log'

    def make(name):
        def call():
            with log.open('a') as file:
                file.write(name)
        return lambda: Prepared(call, name.upper())
    results = take_turns({name: make(name) for name in 'abc'}, rounds=4)
    for name, (details, times) in results.items():
        assert (details, len(times)) == (name.upper(), 4 * CALLS_PER_TURN)
    order = log.read_text()
    assert order[:9] == 'aaabbbccc'  # warming up
    rounds = [''.join(order[i:i + 12:4]) for i in range(9, len(order), 12)]
    assert [sorted(names) for names in rounds] == [['a', 'b', 'c']] * 4 and len(set(rounds)) > 1


def test_a_mistake_in_a_process_is_a_mistake_here_and_the_others_end():
    def fail():
        raise UserError('there is no such thing')
    with pytest.raises(UserError, match='no such thing'):
        take_turns({'first': lambda: Prepared(lambda: None), 'second': fail}, rounds=1)
    assert not turns.multiprocessing.active_children()


def test_a_process_that_dies_is_an_error_here():
    with pytest.raises(RuntimeError, match='ended with 3'):
        Worker(lambda: os._exit(3))
