"""Safe reading for mmengine in our tools: checkpoints by our own reader, YAML without Python objects, no pickles."""
import copy
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import yaml
from mmengine.fileio import LocalBackend, PickleHandler, YamlHandler, register_backend, register_handler
from yaml import Node, YAMLError

from ..errors import UserError
from .files import check_regular
from .picture_files import EXTENSIONS

#: Suffixes of files whose header is looked at before they are decoded.
PICTURES = (*EXTENSIONS, '.gif')

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader


class _PlainLoader(SafeLoader):
    """Reads plain types, and the tuples that mmengine writes into configs."""


def _read_tuple(loader: _PlainLoader, node: Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


_PlainLoader.add_constructor('tag:yaml.org,2002:python/tuple', _read_tuple)


@lru_cache(maxsize=1024)
def _parse(text: str | bytes) -> Any:
    # For each base `mmseg::...` of a config, mmengine reads all metafiles of mmseg, some two hundred.
    return yaml.load(text, Loader=_PlainLoader)


class _PlainYaml(YamlHandler):
    def load_from_fileobj(self, file: IO, **_: Any) -> Any:
        try:
            return copy.deepcopy(_parse(file.read()))
        except YAMLError as error:
            reason = getattr(error, 'problem', None) or ' '.join(str(error).split())
            raise UserError(f'a YAML file is damaged or holds Python objects: {reason}') from error


class _WrittenPickle(PickleHandler):
    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        raise UserError('pickle files (.pkl) are not read, because they can run code; use .json or .yaml')


class _RegularFiles(LocalBackend):
    """The local file system, without pipes and devices, which could block forever, and pictures that are bombs."""

    def get(self, filepath: str | Path) -> bytes:
        check_regular(filepath)
        content = super().get(filepath)
        if not content:
            raise OSError(f'{filepath} is empty')
        if os.path.splitext(filepath)[1].lower() in PICTURES:
            _check_size(content, filepath)
        return content

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        check_regular(filepath)
        return super().get_text(filepath, encoding)

    @contextmanager
    def get_local_path(self, filepath: str | Path) -> Iterator[str | Path]:
        check_regular(filepath)
        yield filepath


def _check_size(content: bytes, path: str | Path) -> None:
    """Refuse a picture that would take gigabytes; by its header, which is all that is read here."""
    from PIL import Image, UnidentifiedImageError
    with warnings.catch_warnings(), suppress(UnidentifiedImageError, SyntaxError, ValueError):
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            Image.open(io.BytesIO(content)).close()
        except Image.DecompressionBombError as error:
            raise OSError(f'{path} is too large: {error}') from error


def read_plain_files() -> None:
    """Keep mmengine from running code from YAML files and pickles, and from reading pipes, in this process."""
    register_handler(['yaml', 'yml'])(_PlainYaml)
    register_handler(['pickle', 'pkl'])(_WrittenPickle)
    register_backend('local', _RegularFiles, force=True, prefixes='')
