"""Functions that take turns, each in a process of its own: while one computes, the others are stopped."""
import contextlib
import ctypes
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rich.progress import track

from ..errors import UserError

#: Timed calls in each turn, after one that is not timed.
CALLS_PER_TURN = 3
WARMUP_SECONDS = 0.5
#: A server that has imported what every process needs, and forks; Apple's frameworks cannot be forked.
START = 'spawn' if sys.platform == 'darwin' else 'forkserver'


class Prepared(NamedTuple):
    """What is timed.

    Attributes:
        call: Runs it once, to the end.
        facts: Anything that can be sent to another process.
        report: Gives the same of the calls so far.
    """

    call: Callable[[], Any]
    facts: Any = None
    report: Callable[[], Any] = lambda: None


class Turn(NamedTuple):
    """What a turn gave: the duration of each timed call in milliseconds, and the report of all calls so far."""

    times: list[float]
    report: Any


def process_context() -> Any:
    """How processes are started: with what each of them needs already imported, where the system can."""
    context = multiprocessing.get_context(START)
    context.set_forkserver_preload(['repvit_mm.analysis.benchmark'])
    return context


class Worker:
    """A process that prepares a function, and calls it in its turns.

    Between turns all of its threads are stopped: engines let theirs spin after a call, beside which another process
    would take up to twice the time.

    Args:
        make: Prepares it; is called in the process.

    Attributes:
        facts: Of the :class:`Prepared`.

    Raises:
        UserError: As ``make`` does.
        RuntimeError: If the process died.
    """

    def __init__(self, make: Callable[[], Prepared]):
        context = process_context()
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, theirs))
        self.process.start()
        theirs.close()
        try:
            self.facts = self._receive()
        except BaseException:
            self.close()
            raise
        os.kill(self.process.pid, signal.SIGSTOP)

    def turn(self) -> Turn:
        """Call the function a few times, while nothing else runs."""
        os.kill(self.process.pid, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended, as is told below
            self._connection.send(CALLS_PER_TURN)
        turn = self._receive()
        os.kill(self.process.pid, signal.SIGSTOP)
        return turn

    def close(self) -> None:
        """End the process, stopped or not."""
        self.process.kill()
        self.process.join()
        self._connection.close()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f'a process of the benchmark ended with {self.process.exitcode}') from None
        if isinstance(answer, UserError):
            raise answer
        return answer


def take_turns(makers: Mapping[Any, Callable[[], Prepared]], rounds: int) -> dict[Any, tuple[Any, Turn]]:
    """Prepare functions and measure them in turns, so that other load on the machine affects all of them alike.

    Args:
        makers: Key -> what prepares it, see :class:`Worker`.
        rounds: Turns of each, in another random order each time.

    Returns:
        Key -> its facts, and all its turns as one.
    """
    workers: dict[Any, Worker] = {}
    try:
        for key, make in track(makers.items(), description='preparing'):
            workers[key] = Worker(make)
        times: dict[Any, list[float]] = {key: [] for key in workers}
        order, shuffle, reports = list(workers), random.Random(0).shuffle, {}
        for _ in track(range(rounds), description='measuring'):
            shuffle(order)
            for key in order:
                turn = workers[key].turn()
                times[key] += turn.times
                reports[key] = turn.report
        return {key: (worker.facts, Turn(times[key], reports[key])) for key, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


def _serve(make: Callable[[], Prepared], connection: Connection) -> None:
    if sys.platform == 'linux':  # a stopped process would outlive this program's sudden end
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    try:
        prepared = make()
        start = time.perf_counter()
        for _ in range(3):
            prepared.call()
        while time.perf_counter() - start < WARMUP_SECONDS:
            prepared.call()
        connection.send(prepared.facts)
        while True:
            calls = connection.recv()
            prepared.call()
            connection.send(Turn([_timed(prepared.call) for _ in range(calls)], prepared.report()))
    except UserError as error:
        connection.send(error)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
