"""The published checkpoints by name, and downloads of these, of addresses and from the Hugging Face Hub."""
import hashlib
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import torch
from filelock import FileLock
from mmengine.fileio import load
from mmengine.logging import print_log

from ..errors import CheckpointError
from .files import RefusedError, kind_of

#: Configs, tools and the index of the metafiles: included in a wheel, linked in a checkout.
ROOT = Path(__file__).resolve().parents[1] / '.mim'
SCHEME = 'repvit://'
#: Prefixes of the names of repositories on the Hugging Face Hub; the latter are timm's.
HUB = ('hf://', 'hf-hub:', 'hf_hub:')
SCHEMES = (SCHEME, *HUB)
#: Start of the addresses of the authors' release, under which mmengine's Inferencers ask for published weights.
RELEASE = 'https://github.com/THU-MIG/RepViT/releases/download/'
#: Environment variable with the address of a mirror of the authors' release.
MIRROR_VARIABLE = 'REPVIT_MM_WEIGHTS_URL'
#: Environment variable that allows unencrypted addresses if it is 1.
HTTP_VARIABLE = 'REPVIT_MM_ALLOW_HTTP'
_TIMEOUT = 30.  # seconds without a byte


class Published(NamedTuple):
    """The published weights of a model.

    Attributes:
        url: Their address in the authors' release.
        config: The config of their model.
        metrics: ``'Metric, data set'`` -> published figure.
    """

    url: str
    config: Path
    metrics: Mapping[str, float]

    @property
    def file(self) -> str:
        """Name of the file."""
        return Path(urlsplit(self.url).path).name


def name_of(file: str) -> str:
    """The name after ``repvit://`` of a published file: its file name without ``repvit_`` and suffix."""
    return Path(file).stem.removeprefix('repvit_')


@cache
def published() -> dict[str, Published]:
    """Read the published weights from the ``metafile.yml`` files: name after ``repvit://`` -> weights."""
    entries = [entry for path in load(ROOT / 'model-index.yml')['Import'] for entry in load(ROOT / path)['Models']]
    return {name_of(entry['Weights']): Published(
        entry['Weights'], ROOT / entry['Config'],
        {f'{metric}, {result["Dataset"]}': value
         for result in entry['Results'] for metric, value in result['Metrics'].items()})
        for entry in entries if 'Weights' in entry}


def fetch(path_or_name: str | Path) -> Path:
    """Return the local file of a checkpoint, which is downloaded if it is given by a name or an address.

    Processes that need the same file at the same time download it once.

    Args:
        path_or_name: A path, which is returned unchanged; ``repvit://NAME`` with a key of :func:`published`, or an
            https address (http if the environment variable ``REPVIT_MM_ALLOW_HTTP`` is 1), which are downloaded into
            torch's cache; or ``hf://OWNER/REPO[@REVISION][/FILE]`` (also ``hf-hub:``), which huggingface_hub downloads
            into its own. The published files are those of the authors' release, or of the mirror that
            ``REPVIT_MM_WEIGHTS_URL`` names.

    Raises:
        CheckpointError: If the name is unknown, the download fails, or the file is not a whole checkpoint.
    """
    name = str(path_or_name)
    if name.startswith(HUB):
        return _fetch_from_hub(name)
    if not re.match(r'\w[\w+.-]+://', name):
        return Path(path_or_name).expanduser()
    url, path = _locate(name)
    _download(name, url, path)
    return path


def _locate(name: str) -> tuple[str, Path]:
    """Address and file in the cache."""
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    key = name.removeprefix(SCHEME) if name.startswith(SCHEME) else next(
        (key for key, weights in published().items() if weights.url == name), None)
    if key is not None:
        if key not in published():
            raise CheckpointError(f'{name} is not a published checkpoint; choose from {", ".join(published())}')
        weights, mirror = published()[key], os.environ.get(MIRROR_VARIABLE)
        url, path = f'{mirror.rstrip("/")}/{weights.file}' if mirror else weights.url, folder / weights.file
    elif name.startswith(('http://', 'https://')):
        file = Path(unquote(urlsplit(name).path)).name if '[' not in name else ''
        if file in ('', '..') or not file.isprintable():
            raise CheckpointError(f'{name} is not the address of a file')
        # Files of the same name from different addresses are kept apart.
        url, path = name, folder / 'repvit_mm' / hashlib.sha256(name.encode()).hexdigest()[:16] / file
    else:
        raise CheckpointError(f'{name} cannot be read; expected a path, https://..., {SCHEME}NAME or hf://OWNER/REPO')
    if url.startswith('http://') and os.environ.get(HTTP_VARIABLE) != '1':
        raise CheckpointError(f'{url} is not encrypted, so the file could be changed on its way; use https://, or '
                              f'set {HTTP_VARIABLE}=1 if you trust the network')
    if not url.startswith(('http://', 'https://')):
        raise CheckpointError(f'{url} is not a web address; expected https://...')
    return url, path


def _download(name: str, url: str, path: Path) -> None:
    """Download the file unless it exists."""
    part = path.with_name(f'{path.name}.part')
    digest = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$', path.name)  # as torch and OpenMMLab name files
    before = socket.getdefaulttimeout()
    try:
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if path.is_file():  # another process has been faster
                return
            socket.setdefaulttimeout(_TIMEOUT)
            torch.hub.download_url_to_file(url, str(part), digest and digest[1])
            with part.open('rb') as file:  # torch does not notice a connection that breaks
                kind_of(file)
            part.replace(path)
    except (OSError, HTTPException, ValueError, RuntimeError, RefusedError) as error:
        with suppress(OSError):
            part.unlink()
        reason = f'what arrived {error}' if isinstance(error, RefusedError) else error
        mirror = f', or set {MIRROR_VARIABLE} to the address of a mirror' if name.startswith(SCHEME) else ''
        raise CheckpointError(f'cannot download {name} from {url} to {path.parent}: {reason}. Try again, save the file '
                              f'as {path}, give the path of a copy instead of the name{mirror}; TORCH_HOME names '
                              'another folder') from error
    finally:
        socket.setdefaulttimeout(before)
    print_log(f'downloaded {url} to {path}; its checksum is '
              f'{"the one in its name" if digest else "not known, and was not checked"}', logger='current')


def _fetch_from_hub(name: str) -> Path:
    match = re.fullmatch(r'(?:hf://|hf[-_]hub:)([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?', name)
    if match is None:
        raise CheckpointError(f'{name} is not the name of a repository; expected hf://OWNER/REPO[@REVISION][/FILE]')
    repository, revision, file = match.groups()
    files = [file] if file else ['model.safetensors', 'pytorch_model.bin']
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError
        for file in files:
            try:
                return Path(hf_hub_download(repository, file, revision=revision))
            except EntryNotFoundError as error:
                missing = error
        raise missing
    except ImportError as error:
        raise CheckpointError(f'{name} needs huggingface_hub; run: pip install huggingface_hub') from error
    except Exception as error:  # its client can raise anything
        raise CheckpointError(f'{name} cannot be downloaded ({" or ".join(files)}): '
                              f'{" ".join(str(error).split())[:300]}') from error
