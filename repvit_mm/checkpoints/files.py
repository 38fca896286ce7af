"""Recognise checkpoint files, and check that they are whole."""
import os
import re
import zipfile
from typing import IO


class RefusedError(Exception):
    """A file that is not read. The message continues a sentence that starts with the name of the file."""


def kind_of(file: IO[bytes]) -> str:
    """Return ``'torch'`` or ``'safetensors'``, by the first bytes of a file.

    Raises:
        RefusedError: If it is anything else, truncated or damaged.
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
        return 'torch'
    if head[8:9] == b'{':
        if int.from_bytes(head[:8], 'little') >= size:
            raise RefusedError('is truncated; download or copy it again')
        return 'safetensors'
    if head.startswith(b'\x80'):
        return 'torch'
    raise RefusedError(f'is not a checkpoint: it begins with {head[:16]!r}, unlike files of torch.save and safetensors')


def _check_zip(file: IO[bytes], size: int) -> None:
    """Check what torch does not: checksums, and that the parts are no larger than the file."""
    if not zipfile.is_zipfile(file):
        raise RefusedError('is truncated: its end is missing; download or copy it again')
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.partition('/')[2] for entry in entries}
        if 'constants.pkl' in names:
            raise RefusedError('is a TorchScript program; expected weights')
        if 'data.pkl' not in names:
            raise RefusedError('is a zip archive, but not one written by torch.save')
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise RefusedError('is a compressed zip archive, which torch.save does not write; save it again with torch')
        if sum(entry.file_size for entry in entries) > size:
            raise RefusedError('is damaged: its parts are larger than the file')
        for entry in entries:
            if entry.CRC and not _is_intact(archive, entry):
                raise RefusedError(f'is damaged: the checksum of {entry.filename} in it is wrong; download or copy it '
                                   'again')


def _is_intact(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 24):
                pass
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError):
        return False
    return True
