"""The published checkpoints by name, and downloads of these, of addresses and from the Hugging Face Hub."""
import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from filelock import FileLock
from mmengine.fileio import load
from mmengine.logging import print_log

from ..errors import CheckpointError, first_line
from .files import RefusedError, kind_of, replaced

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
        url: Their address in the authors' release, or name on the Hugging Face Hub.
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


def name_of(entry: Mapping[str, Any]) -> str:
    """The name after ``repvit://`` of a metafile's entry: that of the released file, or else of the model."""
    name = entry['Name'] if entry['Weights'].startswith(HUB) else Path(entry['Weights']).stem
    return name.removeprefix('repvit_')


@cache
def published() -> dict[str, Published]:
    """Read the published weights from the ``metafile.yml`` files: name after ``repvit://`` -> weights."""
    entries = [entry for path in load(ROOT / 'model-index.yml')['Import'] for entry in load(ROOT / path)['Models']]
    return {name_of(entry): Published(
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
            into its own; FILE is ``model.safetensors`` by default. The published files are those of the authors'
            release, or of the mirror that ``REPVIT_MM_WEIGHTS_URL`` names; for the first version, timm's on the Hub.

    Raises:
        CheckpointError: If the name is unknown, the download fails, or the file is not a whole checkpoint.
    """
    name = str(path_or_name)
    weights = published().get(name.removeprefix(SCHEME)) if name.startswith(SCHEME) else None
    if name.startswith(HUB) or weights and weights.url.startswith(HUB):
        return _fetch_from_hub(weights.url if weights else name)
    if not re.match(r'\w[\w+.-]+://', name):
        return Path(path_or_name).expanduser()
    url, path = _locate(name)
    _check_address(url)
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
        return f'{mirror.rstrip("/")}/{weights.file}' if mirror else weights.url, folder / weights.file
    if not name.startswith(('http://', 'https://')):
        raise CheckpointError(f'{name} cannot be read; expected a path, https://..., {SCHEME}NAME or hf://OWNER/REPO')
    file = Path(unquote(urlsplit(name).path)).name if '[' not in name else ''
    if file in ('', '..') or not file.isprintable():
        raise CheckpointError(f'{name} is not the address of a file')
    # Files of the same name from different addresses are kept apart.
    return name, folder / 'repvit_mm' / hashlib.sha256(name.encode()).hexdigest()[:16] / file


def _check_address(url: str) -> None:
    """Refuse an address that is not encrypted, unless the user allows that."""
    if not url.startswith(('https://', 'http://') if os.environ.get(HTTP_VARIABLE) == '1' else 'https://'):
        raise CheckpointError(f'{url} is not encrypted, so the file could be changed on its way; expected https://..., '
                              f'or http://... with {HTTP_VARIABLE}=1 if you trust the network')


class _Redirections(HTTPRedirectHandler):
    """Follows redirections to addresses that could be asked for directly."""

    def redirect_request(self, *args: Any) -> Request | None:
        _check_address(args[-1])
        return super().redirect_request(*args)


def _download(name: str, url: str, path: Path) -> None:
    """Download the file unless it exists."""
    part = path.with_name(f'{path.name}.part')
    digest = re.search(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$', path.name)  # as torch and OpenMMLab name files
    try:
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if path.is_file():  # another process has been faster
                return
            with replaced(torch.hub, 'urlopen', partial(build_opener(_Redirections).open, timeout=_TIMEOUT)):
                torch.hub.download_url_to_file(url, str(part), digest and digest[1])
            with part.open('rb') as file:  # torch does not notice a connection that breaks
                kind_of(file)
            part.replace(path)
    except Exception as error:  # servers and proxies can cause anything
        with suppress(OSError):
            part.unlink()
        reason = f'what arrived {error}' if isinstance(error, RefusedError) else error
        mirror = f', or set {MIRROR_VARIABLE} to the address of a mirror' if name.startswith(SCHEME) else ''
        raise CheckpointError(f'cannot download {name} from {url} to {path.parent}: {reason}. Try again, save the file '
                              f'as {path}, give the path of a copy instead of the name{mirror}; TORCH_HOME names '
                              'another folder') from error
    print_log(f'downloaded {url} to {path}; its checksum is '
              f'{"the one in its name" if digest else "not known, and was not checked"}', logger='current')


def _fetch_from_hub(name: str) -> Path:
    match = re.fullmatch(r'(?:hf://|hf[-_]hub:)([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?', name)
    if match is None:
        raise CheckpointError(f'{name} is not the name of a repository; expected hf://OWNER/REPO[@REVISION][/FILE]')
    repository, revision, file = match.groups()
    try:
        from huggingface_hub import hf_hub_download
        return Path(hf_hub_download(repository, file or 'model.safetensors', revision=revision))
    except ImportError as error:
        raise CheckpointError(f'{name} needs huggingface_hub; run: pip install huggingface_hub') from error
    except Exception as error:  # its client can raise anything
        raise CheckpointError(f'{name} cannot be downloaded ({file or "model.safetensors"}): '
                              f'{first_line(error)}') from error
