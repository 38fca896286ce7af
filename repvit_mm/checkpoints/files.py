"""Recognise checkpoint files, and check that they are whole."""
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getattr_static
from threading import RLock
from typing import IO, Any

_REPLACING = RLock()


class RefusedError(Exception):
    """A file that is not read. The message continues a sentence that starts with the name of the file."""


def kind_of(file: IO[bytes]) -> str:
    """Return ``'torch'`` or ``'safetensors'``, by the first bytes of a file.

    Raises:
        RefusedError: If it is anything else, or a damaged zip archive.
    """
    head = file.read(512)
    size = file.seek(0, os.SEEK_END)
    if not head:
        raise RefusedError('is empty; download or copy it again')
    if head.startswith(b'version https://git-lfs'):
        raise RefusedError('is a Git LFS pointer; run `git lfs pull` there')
    if re.match(rb'\s*<(!doctype|html|\?xml)', head, re.IGNORECASE):
        raise RefusedError('is a web page; download it again from the address of the file itself')
    if head.startswith(b'PK'):
        _check_zip(file, size)
    elif head[8:9] == b'{':
        return 'safetensors'
    if head.startswith((b'PK', b'\x80')):
        return 'torch'
    raise RefusedError(f'is not a checkpoint: it begins with {head[:16]!r}, unlike files of torch.save and safetensors')


def _check_zip(file: IO[bytes], size: int) -> None:
    """Check checksums, and that the parts are no larger than the file, which torch does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(entry.filename.endswith('/constants.pkl') for entry in archive.filelist):  # torch 2.1 would run it
                raise RefusedError('is a TorchScript program; expected weights')
            if sum(entry.file_size for entry in archive.filelist) > size:
                raise RefusedError('is damaged or compressed: its parts are larger than the file')
            archive.filelist = [entry for entry in archive.filelist if entry.CRC]  # torch can leave them out
            if damaged := archive.testzip():
                raise RefusedError(f'is damaged: the checksum of {damaged} in it is wrong; download or copy it again')
    except zipfile.BadZipFile as error:
        raise RefusedError('is truncated: its end is missing; download or copy it again') from error


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give ``owner`` another attribute ``name`` inside a ``with`` block; other threads wait for its end."""
    with _REPLACING:
        before = getattr_static(owner, name)  # a static method stays one
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, before)
