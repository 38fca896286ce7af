"""Errors that a user can cause, and how the command line reports them."""
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake of the user. The message is one line: what is wrong, where, and what was expected."""


class ConfigError(UserError):
    """An invalid setting or combination of settings."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, unsafe, or made for another model."""


class DatasetError(UserError):
    """A data set that is missing, incomplete or malformed."""


class ExportError(UserError):
    """A model that cannot be exported, or an exported file whose outputs differ from the model's."""


def shortened(names: Iterable[str], most: int = 10) -> str:
    """The first names of a list for a message, with ``...`` if there are more than ``most``."""
    names = list(names)
    return ', '.join(names[:most]) + ', ...' * (len(names) > most)


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit.

    A :class:`UserError` becomes one line on stderr and exit status 1, Ctrl-C becomes status 130. Any other exception is
    a bug and keeps its traceback.

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
