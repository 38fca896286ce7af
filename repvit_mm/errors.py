"""Errors that a user can cause, and how the command line reports them."""
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in what the user gave. The message is one whole line: what, where, what was expected."""


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, unsafe, or made for another model."""


class DatasetError(UserError):
    """A data set that is missing, incomplete or malformed."""


class ExportError(UserError):
    """A model that cannot be exported, or an exported file that does not compute what the model computes."""


def shortened(names: Iterable[str], most: int = 10) -> str:
    """A list of names for a message: the first ones, and ``...`` where there are more than ``most``."""
    names = list(names)
    return ', '.join(names[:most]) + ', ...' * (len(names) > most)


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and end the process with a fitting exit status.

    A :class:`UserError` becomes one line on stderr and status 1, Ctrl-C becomes status 130, any other exception
    keeps its traceback: it is a bug.

    Args:
        main: The tool; returns its exit status, or None for 0.
    """
    try:
        status = main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status)
