"""User errors, and how the command line reports them."""
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from .memory import keep_freed_memory

#: Environment variable that keeps the tracebacks of reported errors if it is 1.
TRACEBACK_VARIABLE = 'REPVIT_MM_TRACEBACK'
#: Characters of a message; it may quote a name from a file, of any length.
LONGEST_MESSAGE = 2000


class UserError(Exception):
    """A mistake of the user. The message is one line: the problem, its place, and the expected value."""


class ConfigError(UserError):
    """An invalid setting or combination of settings."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, unsafe, or made for another model."""


class DatasetError(UserError):
    """A data set that is missing, incomplete or malformed."""


class ExportError(UserError):
    """A model that cannot be exported, or an exported file whose outputs differ from the model's."""


def is_first_process() -> bool:
    """Whether this process is the first one on its machine, or the only one."""
    return not os.environ.get('LOCAL_RANK', '').strip('0').isdecimal()


@contextmanager
def collect(faults: list[str]) -> Iterator[None]:
    """Append the message of a DatasetError to a list, so that other faults are found, too."""
    try:
        yield
    except DatasetError as error:
        faults.append(str(error))


def shortened(names: Iterable[str], most: int = 10) -> str:
    """The first names of a list for a message, with ``...`` if there are more than ``most``."""
    names = list(names)
    return ', '.join(names[:most]) + ', ...' * (len(names) > most)


def printable(text: str) -> str:
    """Escape the control characters in a text with names from files."""
    return ''.join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or else its type."""
    return (str(error).strip() or type(error).__name__).partition('\n')[0]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = '') -> str:
    """The end of a message about an unknown name: ``; did you mean NAME?``, or ``otherwise`` if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f'; did you mean {close[0]}?' if close else otherwise


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is an out-of-memory error."""
    return isinstance(error, MemoryError) or re.search(
        "out of memory|can(no|')t allocate memory|failed to map segment", str(error), re.IGNORECASE) is not None


def explain(error: Exception) -> str | None:
    """One line about an error that files, options or the machine caused; None for a bug."""
    text = str(error)
    if isinstance(error, UserError):
        pass
    elif is_out_of_memory(error):
        text = f'not enough memory: {text or "it is used up"}'
    elif isinstance(error, OSError):
        text = ': '.join(filter(None, [error.filename and os.fsdecode(error.filename), error.strerror or text]))
    else:
        return None
    text = ' '.join(text.split())
    if len(text) > LONGEST_MESSAGE:
        text = f'{text[:LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2:]}'
    return printable(text)


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit, in a process that keeps its memory until then.

    A :class:`UserError`, a file that cannot be read or written, and a lack of memory become one line on stderr and exit
    status 1, Ctrl-C becomes status 130, and a reader of the output that has closed it, such as ``head``, status 141 as
    in a shell. Any other exception is a bug and keeps its traceback, as all do where the environment variable
    ``REPVIT_MM_TRACEBACK`` is 1.

    Args:
        main: The tool; returns its exit status, or None for 0.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # a terminal without UTF-8 must not end the tool
            stream.reconfigure(errors='backslashreplace')
    try:
        status = main()
        if sys.stdout:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        _discard_output()
        message = explain(error)
        if os.environ.get(TRACEBACK_VARIABLE) == '1' and not isinstance(error, KeyboardInterrupt):
            raise
        if is_interrupt(error):
            print('; '.join(['interrupted', *(error.args if isinstance(error, KeyboardInterrupt) else ())]),
                  file=sys.stderr)
            status = 130
        elif isinstance(error, BrokenPipeError):
            status = 141
        elif message is None:
            raise
        else:
            print(f'error: {message}', file=sys.stderr)
            status = 1
    sys.exit(status)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or a library's error that it caused."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or is_interrupt(error.__cause__)
                                  or (not isinstance(error, UserError) and is_interrupt(error.__context__)))


def _discard_output() -> None:
    """Discard output that cannot be written: Python itself would flush it at the end, and fail."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
