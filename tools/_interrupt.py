"""Ends a tool that is interrupted while it is still importing torch as it ends later: with one word and status 130.

The tools import this module first.
"""
import os
import sys
from types import TracebackType

_hook = sys.excepthook


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _hook(kind, error, trace)
        return
    print('interrupted', file=sys.stderr, flush=True)
    os._exit(130)  # Python itself would kill this process by the signal


sys.excepthook = _report
