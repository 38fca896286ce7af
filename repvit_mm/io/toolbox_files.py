"""Files that mmengine and mmcv read in our tools: YAML without Python objects, no pickles, no pipes, our pixels."""
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from mmengine.fileio import LocalBackend, PickleHandler, YamlHandler, register_backend, register_handler
from yaml import Node, YAMLError

from ..errors import UserError
from .files import check_regular

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
    # Cached, as mmengine reads all 200 metafiles of mmseg for each `_base_ = 'mmseg::...'`.
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


class _Content(bytes):
    """Content of a file, with its path for messages."""

    path: str | Path


class _RegularFiles(LocalBackend):
    """The local file system without pipes and devices, which could block forever."""

    def get(self, filepath: str | Path) -> bytes:
        check_regular(filepath)
        content = _Content(super().get(filepath))
        if not content:
            raise OSError(f'{filepath} is empty')
        content.path = filepath
        return content

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        if not Path(filepath).is_file():
            check_regular(filepath)
        return super().get_text(filepath, encoding)

    @contextmanager
    def get_local_path(self, filepath: str | Path) -> Iterator[str | Path]:
        check_regular(filepath)
        yield filepath


def read_plain_files() -> None:
    """Keep mmengine from running code from YAML files and pickles, and from reading pipes, in this process."""
    register_handler(['yaml', 'yml'])(_PlainYaml)
    register_handler(['pickle', 'pkl'])(_WrittenPickle)
    register_backend('local', _RegularFiles, force=True, prefixes='')


@cache
def replace_mmcv_decoder() -> None:
    """Make mmcv decode images with :func:`repvit_mm.io.images.read_image`, in this process and those forked from it.

    All toolboxes decode with ``mmcv.imfrombytes``, in pipelines and for drawing. mmcv still decodes label images
    (``'unchanged'``), and for the backends ``'turbojpeg'`` and ``'tifffile'``.
    """
    import cv2
    import mmcv

    from .images import read_image
    theirs = mmcv.imfrombytes

    def imfrombytes(content: bytes, flag: str | int = 'color', channel_order: str = 'bgr',
                    backend: str | None = None) -> np.ndarray:
        kind, _, ignored = str(flag).partition('_ignore_')
        if kind not in ('color', 'grayscale') or backend not in (None, 'cv2', 'pillow'):
            return theirs(content, flag, channel_order, backend)
        image = read_image(content, upright=not ignored)
        if kind == 'grayscale':
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return image if channel_order.lower() == 'rgb' else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)

    mmcv.imfrombytes = mmcv.image.imfrombytes = mmcv.image.io.imfrombytes = imfrombytes
