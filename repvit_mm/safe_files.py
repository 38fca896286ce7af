"""Safe reading for mmengine in our tools: checkpoints by our own reader, YAML without Python objects, no pickles."""
import os
import stat
from pathlib import Path
from typing import IO, Any

from mmengine.fileio import LocalBackend, PickleHandler, YamlHandler, register_backend, register_handler
from mmengine.runner import CheckpointLoader
from yaml import Node, YAMLError

from .checkpoints import load_for_mmengine
from .errors import UserError

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast: a base `mmseg::...` has all its metafiles read
except ImportError:
    from yaml import SafeLoader


class _PlainLoader(SafeLoader):
    """Reads plain types, and the tuples that mmengine writes into configs."""


def _read_tuple(loader: _PlainLoader, node: Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


_PlainLoader.add_constructor('tag:yaml.org,2002:python/tuple', _read_tuple)


class _PlainYaml(YamlHandler):
    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        try:
            return super().load_from_fileobj(file, Loader=_PlainLoader)
        except YAMLError as error:
            reason = getattr(error, 'problem', None) or ' '.join(str(error).split())
            raise UserError(f'a YAML file is damaged or holds Python objects: {reason}') from error


class _WrittenPickle(PickleHandler):
    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        raise UserError('pickle files (.pkl) are not read, because they can run code; use .json or .yaml')


class _RegularFiles(LocalBackend):
    """The local file system, without pipes and devices, which could block forever."""

    def get(self, filepath: str | Path) -> bytes:
        mode = os.stat(filepath).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(f'{filepath} is a pipe, socket or device; a file is expected')
        return super().get(filepath)


def read_without_code() -> None:
    """Keep mmengine from running code from checkpoints, YAML files and pickles, and from reading pipes.

    This holds for the whole process. mmengine's own loader unpickles whatever a file holds, for every ``init_cfg``
    except a RepViT's. The tools and the Runner call this; importing ``repvit_mm`` alone does not change mmengine.
    Python configs are programs, and are still run.
    """
    CheckpointLoader.load_checkpoint = staticmethod(load_for_mmengine)
    register_handler(['yaml', 'yml'])(_PlainYaml)
    register_handler(['pickle', 'pkl'])(_WrittenPickle)
    register_backend('local', _RegularFiles, force=True, prefixes='')
