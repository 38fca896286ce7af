"""Download checkpoints, by published name or address, into torch's cache."""
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from filelock import FileLock, Timeout
from mmengine.dist import barrier, get_rank, is_distributed
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from ..errors import CheckpointError
from ..io.files import put_in_place
from .release import published

SCHEME = 'repvit://'
#: Where the addresses of the authors' release begin, under which mmengine's Inferencers ask for published weights.
RELEASE = 'https://github.com/THU-MIG/RepViT/releases/download/'
#: Environment variable with the address of a mirror of the authors' release.
MIRROR_VARIABLE = 'REPVIT_MM_WEIGHTS_URL'
#: Environment variable that allows unencrypted addresses if it is 1.
HTTP_VARIABLE = 'REPVIT_MM_ALLOW_HTTP'

_TIMEOUT = 30.  # seconds without a byte
_INTERRUPTIONS = 5  # then the download fails, but the received part is kept for the next try
_CHUNK = 1 << 20  # bytes


def fetch(path_or_name: str | Path) -> Path:
    """Return the local file of a checkpoint, downloaded into torch's cache if it is a name or an address.

    In distributed runs every process must call this; the first process of each node downloads.

    Args:
        path_or_name: A path, which is returned unchanged, ``repvit://NAME`` with a key of :func:`published`, or an
            https address; also http if the environment variable ``REPVIT_MM_ALLOW_HTTP`` is 1. The published files
            are those of the authors' release, or of the mirror that ``REPVIT_MM_WEIGHTS_URL`` names.

    Raises:
        CheckpointError: If the name is unknown, the download fails, or the checksum differs from the recorded one.
    """
    name = str(path_or_name)
    if not re.match(r'\w[\w+.-]+://', name):
        return Path(path_or_name).expanduser()
    url, sha256 = _locate(name)
    path = Path(torch.hub.get_dir(), 'checkpoints', _file_of(url))
    if not name.startswith(SCHEME):  # keep files of the same name from different addresses apart
        path = path.parent / 'repvit_mm' / hashlib.sha256(name.encode()).hexdigest()[:16] / path.name
    if not is_distributed():
        _ensure(name, url, path, sha256)
        return path
    try:
        if int(os.environ.get('LOCAL_RANK', get_rank())) == 0:
            _ensure(name, url, path, sha256)
    finally:
        barrier()  # also after a failure, or the others would wait forever
    if not path.is_file():
        raise CheckpointError(f'{name} could not be downloaded; see the error of the first process of this node')
    return path


def _locate(name: str) -> tuple[str, str | None]:
    """Address and, if known, the SHA-256 or its first digits."""
    if name.startswith(('http://', 'https://')):
        check_encrypted(name)
        digest = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$', _file_of(name))  # as torch and OpenMMLab name files
        return name, digest and digest[1]
    if not name.startswith(SCHEME):
        raise CheckpointError(f'{name} cannot be read; expected a path, https://... or {SCHEME}NAME')
    weights = published().get(name.removeprefix(SCHEME))
    if weights is None:
        raise CheckpointError(f'{name} is not a published checkpoint; choose from {", ".join(published())}')
    mirror = os.environ.get(MIRROR_VARIABLE)
    url = f'{mirror.rstrip("/")}/{weights.file}' if mirror else weights.url
    check_encrypted(url)
    return url, weights.sha256


def check_encrypted(url: str) -> None:
    """Raise a CheckpointError for an unencrypted address, unless the user allows it."""
    if url.startswith('https://') or url.startswith('http://') and os.environ.get(HTTP_VARIABLE) == '1':
        return
    if url.startswith('http://'):
        raise CheckpointError(f'{url} is not encrypted, so the file could be changed on its way; use https://, or '
                              f'set {HTTP_VARIABLE}=1 if you trust the network')
    raise CheckpointError(f'{url} is not a web address; expected https://...')


def _file_of(url: str) -> str:
    try:
        file = Path(unquote(urlsplit(url).path)).name
    except ValueError as error:
        raise CheckpointError(f'{url} is not a valid address: {error}') from error
    if file in ('', '..') or not file.isprintable():
        raise CheckpointError(f'{url} is not the address of a file')
    return file


def _ensure(name: str, url: str, path: Path, sha256: str | None) -> None:
    """Download the file unless it exists, one process at a time."""
    part = _part_of(path)
    try:
        for place in (*path.parents[:2], path, part, _tag_of(part), Path(f'{path}.lock')):
            if place.is_symlink() and place.name not in ('hub', 'checkpoints'):
                raise CheckpointError(f'{place} is a symbolic link, which are not followed in the cache; delete it, or '
                                      'give the path of the file instead of the name')
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file():
                _download(name, url, path, sha256)
    except OSError as error:
        raise CheckpointError(f'cannot write {path} ({error.strerror or error}); set TORCH_HOME to another '
                              'folder') from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(f'{path}.lock')
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print_log(f'waiting for another process to download {path.name}', logger='current')
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(name: str, url: str, path: Path, sha256: str | None) -> None:
    part = _part_of(path)
    interruptions = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, sha256 is not None)
            break
        except (URLError, HTTPException, ConnectionError, TimeoutError, ValueError) as error:  # ValueError: bad headers
            interruptions += 1
            if _size(part) <= before or interruptions == _INTERRUPTIONS:
                raise CheckpointError(_offline(name, url, path, error)) from error
    digest = sha256_of(part)
    if not digest.startswith(sha256 or ''):
        _discard(part)
        raise CheckpointError(f'{name} from {url} has SHA-256 {digest}, expected {sha256}: it was changed or damaged '
                              'on its way and has been deleted; try again, or try another mirror')
    put_in_place(part, path)
    _discard(part)
    checked = 'as recorded' if sha256 else 'not checked, as none is recorded'
    print_log(f'downloaded {url} to {path} (SHA-256 {digest}, {checked})', logger='current')


class _EncryptedRedirects(HTTPRedirectHandler):
    """Follows redirections to allowed addresses only."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        check_encrypted(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transfer(url: str, part: Path, can_check: bool) -> None:
    """Download ``url`` to ``part``; resume an earlier download if the file on the server is still the same."""
    tag_file = _tag_of(part)
    have, headers = 0, {'User-Agent': 'repvit-mm'}
    if _size(part) > 0 and tag_file.is_file() and (tag := tag_file.read_text().partition('\n'))[0] == url:
        have = _size(part)
        headers.update({'Range': f'bytes={have}-', 'If-Range': tag[2]})
    try:
        response: HTTPResponse = build_opener(_EncryptedRedirects).open(
            Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the server's file is shorter than our part: a different file
            _discard(part)
        raise
    with response:
        if response.headers.get_content_type() == 'text/html':
            raise URLError('the server sent a web page')
        received = response.headers.get('Content-Range', '')
        resumed = response.status == 206 and received.startswith(f'bytes {have}-')
        have = have if resumed else 0
        length = response.headers.get('Content-Length')
        if length is None and not response.chunked and not can_check:
            raise URLError('the server does not send the length of the file, so a truncated file would go unnoticed')
        total = None if length is None else have + int(length)
        tag = response.headers.get('ETag') or ''
        tag = response.headers.get('Last-Modified', '') if not tag or tag.startswith('W/') else tag
        with part.open('ab' if resumed else 'wb') as file:
            if tag:
                tag_file.write_text(f'{url}\n{tag}')
            else:
                tag_file.unlink(missing_ok=True)
            _copy(response, file, have, total, part.stem)
    if total is not None and _size(part) != total:
        raise ConnectionError(f'the connection broke after {_size(part):,} of {total:,} bytes')


def _copy(response: HTTPResponse, file: BinaryIO, have: int, total: int | None, title: str) -> None:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=have)
        while chunk := _receive(response):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _receive(response: HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except OSError as error:  # tell it from errors of the disk
        raise ConnectionError(f'the connection broke: {error}') from error


def _offline(name: str, url: str, path: Path, error: Exception) -> str:
    reason = getattr(error, 'reason', None) or error
    reason = f'{error.code} {reason}' if isinstance(error, HTTPError) else reason
    mirror = f', or set {MIRROR_VARIABLE} to the address of a mirror' if name.startswith(SCHEME) else ''
    return (f'cannot download {name} from {url} ({reason}). Try again (the received part is kept), or save the '
            f'file as {path}, or give the path of a copy instead of the name{mirror}')


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _part_of(path: Path) -> Path:
    return path.with_name(f'{path.name}.part')


def _tag_of(part: Path) -> Path:
    """The file with the address and ETag of a part, which tell whether it can be resumed."""
    return Path(f'{part}.tag')


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_of(part).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
