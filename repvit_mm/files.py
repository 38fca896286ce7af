"""Writing files whole or not at all."""
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ConfigError, UserError

#: Age in seconds from which what a killed process left behind is removed; what is younger may be in use.
STALE_SECONDS = 3600


@contextmanager
def atomic_write(out: str | Path, folder: bool = False) -> Iterator[Path]:
    """Give a path to write to, which takes the place of ``out`` when all went well.

    Args:
        out: The file or folder; it may exist.
        folder: Whether it is a folder.

    Raises:
        UserError: If it cannot be written. Then ``out`` stays as it was, and nothing else is left.
    """
    out = Path(out)
    beside = _make_folder_beside(out, folder)
    try:
        yield beside / out.name
        put_in_place(beside / out.name, out)
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put_in_place(part: Path, out: Path) -> None:
    """Rename ``part`` to ``out``, on the same disk, once its content is there: a power cut leaves one of the two."""
    if part.is_dir():
        os.sync()  # much faster than file by file
    else:
        _sync(part)
    before = part.with_name(f'{part.name}.before')
    if out.is_dir():  # a folder cannot be replaced in one step
        out.rename(before)
    try:
        part.replace(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise
    _sync(out.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(out: str | Path) -> None:
    """Find out before long work whether its result, a file, can be written.

    Raises:
        UserError: If :func:`atomic_write` could not begin.
    """
    _make_folder_beside(Path(out), folder=False).rmdir()


def _make_folder_beside(out: Path, folder: bool) -> Path:
    prefix = f'.{out.name}.partial-'
    for path in out.parent.glob(f'{glob.escape(prefix)}*'):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    if out.exists() and out.is_dir() != folder:
        raise UserError(f'{out} cannot be written: there is a {"file" if folder else "folder"} of that name')
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror}: {out.parent}') from error


def make_folder(path: str | Path, option: str = '') -> Path:
    """Make a folder for results, unless it is there.

    Args:
        path: The folder; missing parents are made.
        option: What named it, for the error.

    Raises:
        ConfigError: If it cannot be made, or something else of that name is there.
    """
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = 'it is a file' if path.is_file() else error.strerror
        raise ConfigError(f'{option} {path}: the folder cannot be made: {reason}; name another'.lstrip()) from error
    return path


def write_json(out: str | Path, content: Any) -> None:
    """Write ``content`` as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_write(out) as path:
        path.write_text(json.dumps(content, indent=2) + '\n')
