"""Writing files whole or not at all."""
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError, UserError


@contextmanager
def written_in_one_piece(out: str | Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the place of ``out`` when all went well.

    Raises:
        UserError: If it cannot be written. What was at ``out`` stays as it was then, and nothing else is left.
    """
    out = Path(out)
    folder = _folder_beside(out)
    try:
        yield folder / out.name
        if out.is_dir():  # a folder cannot be replaced in one step
            out.rename(folder / 'before')
        try:
            (folder / out.name).replace(out)
        except OSError:
            if (folder / 'before').exists():
                (folder / 'before').rename(out)
            raise
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(out: str | Path) -> None:
    """Find out before long work whether its result can be written.

    Raises:
        UserError: If :func:`written_in_one_piece` could not begin.
    """
    _folder_beside(Path(out)).rmdir()


def _folder_beside(out: Path) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror}: {out.parent}') from error
    if out.is_dir() != (out.suffix == '.mlpackage') and out.exists():
        folder.rmdir()
        raise UserError(f'{out} cannot be written: something else of that name is there')
    return folder


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
    with written_in_one_piece(out) as path:
        path.write_text(json.dumps(content, indent=2) + '\n')
