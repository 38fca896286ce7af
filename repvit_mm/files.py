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

#: Age in seconds after which leftovers of killed processes are removed; younger ones may be in use.
STALE_SECONDS = 3600


@contextmanager
def atomic_write(out: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which replaces ``out`` when the block succeeds.

    Args:
        out: The file or folder; it may exist.
        folder: Whether to write a folder.

    Raises:
        UserError: If it cannot be written. As after any error, ``out`` is unchanged and the temporary path is removed.
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
    """Sync ``part`` to the disk and rename it to ``out``: even a power cut leaves the old content or the new."""
    if part.is_dir():
        os.sync()  # much faster than syncing file by file
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
    """Check before a long computation that its result, a file, can be written.

    Raises:
        UserError: If :func:`atomic_write` would fail at its start.
    """
    _make_folder_beside(Path(out), folder=False).rmdir()


def _make_folder_beside(out: Path, folder: bool) -> Path:
    prefix = f'.{out.name}.partial-'
    for path in out.parent.glob(f'{glob.escape(prefix)}*'):
        with suppress(FileNotFoundError):  # removed by another process
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    if out.exists() and out.is_dir() != folder:
        raise UserError(f'{out} cannot be written: there is a {"file" if folder else "folder"} of that name')
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror}: {out.parent}') from error


def make_folder(path: str | Path, option: str = '') -> Path:
    """Create a folder for results, unless it exists.

    Args:
        path: The folder; missing parents are created.
        option: The option that names it, for the error.

    Raises:
        ConfigError: If it cannot be created, or is a file.
    """
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = 'it is a file' if path.is_file() else error.strerror
        message = f'{option} {path}: the folder cannot be created: {reason}; choose another'.lstrip()
        raise ConfigError(message) from error
    return path


def write_json(out: str | Path, content: Any) -> None:
    """Write ``content`` as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_write(out) as path:
        path.write_text(json.dumps(content, indent=2) + '\n')
