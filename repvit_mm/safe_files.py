"""What mmengine reads in our tools: checkpoints as this package reads them, YAML without Python objects, no pickles."""
import os
import stat
from pathlib import Path
from typing import IO, Any

from mmengine.fileio import LocalBackend, PickleHandler, YamlHandler, register_backend, register_handler
from mmengine.runner import CheckpointLoader
from yaml import Node, SafeLoader, YAMLError

from .checkpoints import load_for_mmengine
from .errors import UserError


class _PlainLoader(SafeLoader):
    """Reads plain types, and tuples, which mmengine writes into configs."""


def _read_tuple(loader: _PlainLoader, node: Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


_PlainLoader.add_constructor('tag:yaml.org,2002:python/tuple', _read_tuple)


class _PlainYaml(YamlHandler):
    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        try:
            return super().load_from_fileobj(file, Loader=_PlainLoader)
        except YAMLError as error:
            reason = getattr(error, 'problem', None) or ' '.join(str(error).split())
            raise UserError(f'a YAML file is damaged, or holds more than plain values: {reason}') from error


class _WrittenPickle(PickleHandler):
    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        raise UserError('a pickle (.pkl) is not read, since it could run code; give the file as .json or .yaml')


class _RegularFiles(LocalBackend):
    """The local file system; a pipe or a device, whose end may never come, is not read."""

    def get(self, filepath: str | Path) -> bytes:
        mode = os.stat(filepath).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(f'{filepath} is a pipe, socket or device; a file is expected')
        return super().get(filepath)


def read_without_code() -> None:
    """Let mmengine run no code from checkpoints, YAML files and pickles, in this process from now on, nor read pipes.

    Its own loader unpickles whatever a file holds, for every ``init_cfg`` but a RepViT's. The tools and the Runner call
    this; importing ``repvit_mm`` leaves mmengine as it is. Configs in Python are programs, and are run.
    """
    CheckpointLoader.load_checkpoint = staticmethod(load_for_mmengine)
    register_handler(['yaml', 'yml'])(_PlainYaml)
    register_handler(['pickle', 'pkl'])(_WrittenPickle)
    register_backend('local', _RegularFiles, force=True, prefixes='')
