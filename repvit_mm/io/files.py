"""Atomic writing of files and folders, and reading of text that may have any content."""
import codecs
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DatasetError, UserError

#: Age in seconds after which leftovers of killed processes are removed; younger ones may be in use.
STALE_SECONDS = 3600
#: Files and folders of macOS, Windows and Synology.
_JUNK = ('__MACOSX', 'Thumbs.db', 'desktop.ini', '@eaDir')
#: Errors of torch and safetensors on a full disk, instead of an OSError.
_CANNOT_WRITE = re.compile('PytorchStreamWriter|inline_container|iostream|I/O error')


@contextmanager
def atomic_write(out: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which replaces ``out`` when the block succeeds.

    Args:
        out: The file or folder; replaced if it exists.
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
    except Exception as error:
        if isinstance(error, UserError) or not _CANNOT_WRITE.search(str(error)):
            raise
        raise UserError(f'{out} cannot be written: is the disk full?') from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def put_in_place(part: Path, out: Path) -> None:
    """Sync ``part`` to the disk and rename it to ``out``: a power cut leaves the old or the new content."""
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
    remove_partials(out.parent, glob.escape(out.name), STALE_SECONDS)
    if out.exists() and out.is_dir() != folder:
        raise UserError(f'{out} cannot be written: there is a {"file" if folder else "folder"} of that name')
    try:
        return Path(tempfile.mkdtemp(prefix=f'.{out.name}.partial-', dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror}: {out.parent}') from error


def remove_partials(folder: Path, name: str = '*', age: float = 0) -> None:
    """Remove what killed processes have left half-written in a folder.

    Args:
        folder: The folder.
        name: Pattern of the names of the files.
        age: In seconds; younger files stay.
    """
    for path in folder.glob(f'.{name}.partial-*'):
        with suppress(FileNotFoundError):  # removed by another process
            if time.time() - path.stat().st_mtime >= age:
                shutil.rmtree(path, ignore_errors=True)


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
        raise ConfigError(f'{option} {path}: the folder cannot be created: {error.strerror}; choose another'.lstrip()
                          ) from error
    return path


def check_folder(path: str | Path, file: str, option: str = '') -> Path:
    """Check before a long computation that a folder for results can be created, and leave none behind.

    Args:
        path: The folder; missing parents are created, too.
        file: Name of a file that will be written into it.
        option: The option that names it, for the error.

    Returns:
        The folder, without ``~``.

    Raises:
        UserError: If the folder or the file cannot be written.
    """
    path = Path(path).expanduser()
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path, option)
    try:
        check_writable(path / file)
    finally:
        for folder in missing:
            folder.rmdir()
    return path


def write_json(out: str | Path, content: Any) -> None:
    """Write ``content`` as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_write(out) as path:
        path.write_text(json.dumps(content, indent=2) + '\n')


def check_regular(path: str | Path) -> None:
    """Check that a regular file exists: reading a pipe or device can block forever.

    Raises:
        OSError: If not.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = 'a folder' if stat.S_ISDIR(mode) else 'a pipe, socket or device'
        raise OSError(f'{path} is {kind}; a file is expected')


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        DatasetError: If it does not exist, is not a regular file, or is not text.
    """
    try:
        check_regular(path)
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f'{path} does not exist') from error
    except OSError as error:
        raise DatasetError(f'{path} cannot be read: {error.strerror}' if error.strerror else str(error)) from error
    try:
        text = content.decode('utf-16' if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else 'utf-8-sig')
    except ValueError as error:
        raise DatasetError(f'{path} is not a text file in UTF-8: {error}') from error
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path} is not valid JSON: {error}') from error


def find_files(folder: str | Path) -> list[Path]:
    """All files below a folder; links are followed. Hidden files and those of operating systems are skipped."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # links can be circular
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(name))
        found += [Path(place, name) for name in sorted(names) if not is_junk(name)]
    return found


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or written by an operating system."""
    return name[0] == '.' or name in _JUNK
