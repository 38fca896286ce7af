"""The published checkpoints by name, and their way into the cache."""
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
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..errors import CheckpointError
from ..files import put_in_place
from .release import published

SCHEME = 'repvit://'
#: Environment variable with the address of a mirror of the authors' release.
MIRROR_VARIABLE = 'REPVIT_MM_WEIGHTS_URL'
#: Environment variable that allows addresses without encryption, if it is 1.
HTTP_VARIABLE = 'REPVIT_MM_ALLOW_HTTP'

_TIMEOUT = 30.  # seconds without a byte
_INTERRUPTIONS = 5  # after which a download is given up; what is there stays for the next one
_CHUNK = 1 << 20  # bytes


def fetch(path_or_name: str | Path, base_url: str | None = None) -> Path:
    """Give the local file of a checkpoint; download it into torch's cache if it is a name or an address.

    In distributed runs every process has to call this; the first of each node downloads.

    Args:
        path_or_name: A path, which is returned as it is, ``repvit://NAME`` with a key of :func:`published`, or
            an address that starts with https; with http where the environment variable ``REPVIT_MM_ALLOW_HTTP`` is 1.
        base_url: Where the published files are; by default what the environment variable
            ``REPVIT_MM_WEIGHTS_URL`` says, or else the authors' release.

    Raises:
        CheckpointError: If the name is unknown, the download fails, or the content is not the recorded one.
    """
    name = str(path_or_name)
    if not re.match(r'\w[\w+.-]+://', name):
        return Path(path_or_name).expanduser()
    url, sha256 = _locate(name, base_url)
    path = Path(torch.hub.get_dir(), 'checkpoints', _file_of(url))
    if not name.startswith(SCHEME):  # files of one name from two places are two files
        path = path.parent / 'repvit_mm' / hashlib.sha256(name.encode()).hexdigest()[:16] / path.name
    if not is_distributed():
        _ensure(name, url, path, sha256)
        return path
    try:
        if int(os.environ.get('LOCAL_RANK', get_rank())) == 0:
            _ensure(name, url, path, sha256)
    finally:
        barrier()  # also after a failure, or the others would wait for ever
    if not path.is_file():
        raise CheckpointError(f'{name} could not be downloaded; the first process of this node tells why')
    return path


def _locate(name: str, base_url: str | None) -> tuple[str, str | None]:
    """Address and, if known, SHA-256 or its beginning."""
    if name.startswith(('http://', 'https://')):
        check_encrypted(name)
        digest = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$', _file_of(name))  # as torch and OpenMMLab name files
        return name, digest and digest[1]
    if not name.startswith(SCHEME):
        raise CheckpointError(f'{name} cannot be read; give a path, https://... or {SCHEME}NAME')
    weights = published().get(name.removeprefix(SCHEME))
    if weights is None:
        raise CheckpointError(f'{name} is not published; after {SCHEME}, choose one of {", ".join(published())}')
    mirror = base_url or os.environ.get(MIRROR_VARIABLE)
    url = f'{mirror.rstrip("/")}/{weights.file}' if mirror else weights.url
    check_encrypted(url)
    return url, weights.sha256


def check_encrypted(url: str) -> None:
    """Raise a CheckpointError for an address over which anybody on the way could change the file."""
    if url.startswith('https://') or url.startswith('http://') and os.environ.get(HTTP_VARIABLE) == '1':
        return
    if url.startswith('http://'):
        raise CheckpointError(f'{url} is not encrypted: anybody on the way could change the file; take https://, or '
                              f'set {HTTP_VARIABLE}=1 if you trust the network')
    raise CheckpointError(f'{url} is not an address of the web; https://... is expected')


def _file_of(url: str) -> str:
    try:
        file = Path(unquote(urlsplit(url).path)).name
    except ValueError as error:
        raise CheckpointError(f'{url} is not an address: {error}') from error
    if file in ('', '..') or not file.isprintable():
        raise CheckpointError(f'{url} names no file')
    return file


def _ensure(name: str, url: str, path: Path, sha256: str | None) -> None:
    """Download unless the file is there; of several processes, one at a time."""
    part = _part_of(path)
    try:
        for place in (*path.parents[:2], path, part, _tag_of(part), Path(f'{path}.lock')):
            if place.is_symlink() and place.name not in ('hub', 'checkpoints'):
                raise CheckpointError(f'{place} is a link, and links in the cache are not followed; delete it, or give '
                                      'the path of the file in the place of the name')
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not path.is_file():
                _download(name, url, path, sha256)
    except OSError as error:
        raise CheckpointError(f'cannot write {path} ({error.strerror or error}); TORCH_HOME chooses another '
                              'place') from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(f'{path}.lock')
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print_log(f'waiting for another process that downloads {path.name}', logger='current')
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
        except (URLError, HTTPException, ConnectionError, TimeoutError, ValueError) as error:  # the last: odd headers
            interruptions += 1
            if _size(part) <= before or interruptions == _INTERRUPTIONS:
                raise CheckpointError(_offline(name, url, path, error)) from error
    digest = _sha256_of(part)
    if not digest.startswith(sha256 or ''):
        _discard(part)
        raise CheckpointError(f'{name} from {url} has SHA-256 {digest}, but {sha256} is recorded: it was changed or '
                              'damaged on its way, and has been deleted; try again, or another mirror')
    put_in_place(part, path)
    _discard(part)
    checked = 'as recorded' if sha256 else 'none is recorded to compare it with'
    print_log(f'downloaded {url} to {path} (SHA-256 {digest}, {checked})', logger='current')


class _EncryptedRedirects(HTTPRedirectHandler):
    """Follows no redirection to an address that would not have been taken itself."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        check_encrypted(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transfer(url: str, part: Path, can_check: bool) -> None:
    """Download ``url`` to ``part``; go on where an earlier call stopped if it is the same file still."""
    tag_file = _tag_of(part)
    have, headers = 0, {'User-Agent': 'repvit-mm'}
    if _size(part) > 0 and tag_file.is_file() and (tag := tag_file.read_text().partition('\n'))[0] == url:
        have = _size(part)
        headers.update({'Range': f'bytes={have}-', 'If-Range': tag[2]})
    try:
        response: HTTPResponse = build_opener(_EncryptedRedirects).open(
            Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # there is nothing behind what we have: it was not that file
            _discard(part)
        raise
    with response:
        if response.headers.get_content_type() == 'text/html':
            raise URLError('the answer is a web page')
        received = response.headers.get('Content-Range', '')
        resumed = response.status == 206 and received.startswith(f'bytes {have}-')
        have = have if resumed else 0
        length = response.headers.get('Content-Length')
        if length is None and not response.chunked and not can_check:
            raise URLError('the answer does not say how long the file is, so that a part could pass for the whole')
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
    columns = (TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=have)
        while chunk := _receive(response):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _receive(response: HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except OSError as error:  # not to be taken for one of the disk
        raise ConnectionError(f'the connection broke: {error}') from error


def _offline(name: str, url: str, path: Path, error: Exception) -> str:
    reason = getattr(error, 'reason', None) or error
    reason = f'{error.code} {reason}' if isinstance(error, HTTPError) else reason
    mirror = f', or give the address of a mirror in {MIRROR_VARIABLE}' if name.startswith(SCHEME) else ''
    return (f'cannot download {name} from {url} ({reason}). Try again (what has arrived is kept), or bring the '
            f'file to {path} yourself, or give the path of a copy in the place of the name{mirror}')


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _part_of(path: Path) -> Path:
    return path.with_name(f'{path.name}.part')


def _tag_of(part: Path) -> Path:
    """The file with what tells whether the rest of a part is on the server still."""
    return Path(f'{part}.tag')


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_of(part).unlink(missing_ok=True)


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
