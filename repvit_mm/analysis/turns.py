"""Functions that take turns, each in its own process: while one computes, the others are stopped."""
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
#: A server that has imported what every process needs, and forks. Apple's frameworks cannot be forked.
START = 'spawn' if sys.platform == 'darwin' else 'forkserver'


class Prepared(NamedTuple):
    """A function to measure.

    Attributes:
        call: Runs it once, to the end.
        details: Any picklable object.
    """

    call: Callable[[], Any]
    details: Any = None


class Worker:
    """A process that prepares a function, and calls it in its turns.

    Between turns all of its threads are stopped: engines let theirs spin after a call, which can double the time of
    another process.

    Args:
        make: Prepares the function; called in the process.

    Attributes:
        details: Details of the :class:`Prepared`.

    Raises:
        UserError: As ``make`` does.
        RuntimeError: If the process died.
    """

    def __init__(self, make: Callable[[], Prepared]):
        context = multiprocessing.get_context(START)
        context.set_forkserver_preload(['repvit_mm.analysis.benchmark'])
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, theirs))
        self.process.start()
        theirs.close()
        try:
            self.details = self._receive()
        except BaseException:
            self.close()
            raise
        os.kill(self.process.pid, signal.SIGSTOP)

    def turn(self) -> list[float]:
        """Call the function a few times, while nothing else runs; returns the times of the calls in milliseconds."""
        os.kill(self.process.pid, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # _receive reports that the process ended
            self._connection.send(CALLS_PER_TURN)
        times = self._receive()
        os.kill(self.process.pid, signal.SIGSTOP)
        return times

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


def take_turns(makers: Mapping[Any, Callable[[], Prepared]], rounds: int) -> dict[Any, tuple[Any, list[float]]]:
    """Measure functions in turns, so that other load on the machine affects all of them alike.

    Args:
        makers: Key -> ``make`` of a :class:`Worker`.
        rounds: Turns of each function, in another random order each time.

    Returns:
        Key -> details, and the times of all calls in milliseconds.
    """
    workers: dict[Any, Worker] = {}
    try:
        for key, make in track(makers.items(), description='preparing'):
            workers[key] = Worker(make)
        times: dict[Any, list[float]] = {key: [] for key in workers}
        order, shuffle = list(workers), random.Random(0).shuffle
        for _ in track(range(rounds), description='measuring'):
            shuffle(order)
            for key in order:
                times[key] += workers[key].turn()
        return {key: (worker.details, times[key]) for key, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


def _serve(make: Callable[[], Prepared], connection: Connection) -> None:
    if sys.platform == 'linux':  # a stopped process would outlive the sudden end of this program
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the parent
    try:
        prepared = make()
    except UserError as error:
        connection.send(error)
        return
    start = time.perf_counter()
    for _ in range(3):
        prepared.call()
    while time.perf_counter() - start < WARMUP_SECONDS:
        prepared.call()
    connection.send(prepared.details)
    while True:
        calls = connection.recv()
        prepared.call()
        connection.send([_timed(prepared.call) for _ in range(calls)])


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
