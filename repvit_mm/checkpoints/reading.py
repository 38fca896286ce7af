"""Reading checkpoint files without running code from them."""
import argparse
import codecs
import pathlib
import pickle
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn
from torch._weights_only_unpickler import _get_allowed_globals

from ..errors import CheckpointError

#: Where training programs keep the weights in what they save, in the order in which they are looked for: averaged
#: ones last, since the published accuracies are those of the others.
WEIGHT_KEYS = ('state_dict', 'model', 'model_ema', 'state_dict_ema', 'ema_state_dict')


class _History(HistoryBuffer):
    """An mmengine ``HistoryBuffer`` that is read without the functions that its pickle brings along."""

    def __setstate__(self, state: dict) -> None:
        state.pop('statistics_methods', None)
        super().__setstate__(state)
        self.__class__ = HistoryBuffer


def _no_attribute(*_: object) -> None:
    """Stands for the ``getattr`` by which a pickled ``HistoryBuffer`` names its statistics."""


def _plain_types() -> list[tuple[Any, str]]:
    """What may be in a checkpoint beside tensors, containers, numbers and text: (our class, name in the file)."""
    types = [(argparse.Namespace, 'argparse.Namespace'),
             (_History, 'mmengine.logging.history_buffer.HistoryBuffer'), (_no_attribute, 'builtins.getattr'),
             (np.ndarray, 'numpy.ndarray'), (np.dtype, 'numpy.dtype')]
    array, scalar = np.empty(0).__reduce__()[0], np.float32().__reduce__()[0]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # renamed in numpy 2; files know both names
        types += [(array, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    for code in '?bhilqBHILQefd':
        dtype = type(np.dtype(code))
        types.append((dtype, f'{dtype.__module__}.{dtype.__qualname__}'))
    for module in ('pathlib', 'pathlib._local'):
        for system, path in (('Posix', pathlib.PurePosixPath), ('Windows', pathlib.PureWindowsPath)):
            types += [(path, f'{module}.{system}Path'), (path, f'{module}.Pure{system}Path')]
    return types


class _PlainPickle:
    """What ``torch.load`` takes for the ``pickle`` module, with nothing in it but plain types.

    For torch before 2.6, whose own reading of plain types can be told of no others.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            types = {'_codecs.encode': codecs.encode, 'builtins.bytearray': bytearray, 'builtins.complex': complex,
                     'builtins.set': set, 'collections.Counter': Counter, 'torch.device': torch.device}
            types |= _get_allowed_globals() | {file_name: our_type for our_type, file_name in _plain_types()}
            module = module.replace('__builtin__', 'builtins')  # as Python 2 and protocol 2 call it
            if f'{module}.{name}' not in types:
                raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is not a plain type')
            return types[f'{module}.{name}']

    @classmethod
    def load(cls, file: IO[bytes], **options: Any) -> Any:
        return cls.Unpickler(file, **options).load()


def _load_plain(path: Path) -> Any:
    version = tuple(int(number) for number in re.findall(r'\d+', torch.__version__)[:2])
    if version < (2, 6):
        return torch.load(path, map_location='cpu', pickle_module=_PlainPickle, weights_only=False)
    known = set(torch.serialization.get_safe_globals())  # leaving the context would forget what users allowed
    with torch.serialization.safe_globals([entry for entry in _plain_types() if entry not in known]):
        return torch.load(path, map_location='cpu', weights_only=True)


def read_checkpoint(path: str | Path, trust: bool = False) -> Any:
    """Read a checkpoint file into main memory.

    Only tensors, containers, numbers, text, numpy arrays, paths, ``argparse.Namespace`` and mmengine's
    ``HistoryBuffer`` are read. A file that needs anything else is refused, since reading it would run code.

    Args:
        path: A file that ``torch.save`` or safetensors wrote.
        trust: Also read files that need other types, and run whatever code they hold.

    Returns:
        What was saved, usually a dict.

    Raises:
        CheckpointError: If there is no such file, it is damaged or no checkpoint, or needs other types.
    """
    path = Path(path).expanduser()
    kind = _kind_of(path)
    try:
        if kind == 'safetensors':
            return _read_safetensors(path)
        if trust:
            return torch.load(path, map_location='cpu', weights_only=False)
        return _load_plain(path)
    except CheckpointError:
        raise
    except Exception as error:  # what is not a checkpoint can fail in any way
        raise CheckpointError(_explain(path, error)) from error


def tensors_of(checkpoint: Any, source: str | Path) -> Mapping[str, Tensor]:
    """Find the weights in what a checkpoint file held.

    Args:
        checkpoint: Name -> tensor, or a dict with that under one of :data:`WEIGHT_KEYS`, or a module.
        source: Where it is from, for the error.

    Raises:
        CheckpointError: If there are no tensors.
    """
    if isinstance(checkpoint, nn.Module):
        return checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        for candidate in (*(checkpoint.get(key) for key in WEIGHT_KEYS), checkpoint):
            if isinstance(candidate, nn.Module):
                return candidate.state_dict()
            if isinstance(candidate, Mapping):
                tensors = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
                if tensors:
                    return candidate if len(tensors) == len(candidate) else tensors
        content = f'a dict with {", ".join(map(str, list(checkpoint)[:5])) or "nothing in it"}'
    else:
        content = f'a {type(checkpoint).__name__}'
    raise CheckpointError(f'{source} holds no tensors, but {content}; weights are expected at the top, or under one '
                          f'of {", ".join(WEIGHT_KEYS)}')


def _kind_of(path: Path) -> str:
    """``'torch'`` or ``'safetensors'``, after the first bytes; raises for what is visibly neither."""
    if not path.exists():
        raise CheckpointError(f'there is no file {path}')
    if not path.is_file():
        raise CheckpointError(f'{path} is a directory; a checkpoint file is expected')
    try:
        with path.open('rb') as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}') from error
    if not head:
        raise CheckpointError(f'{path} is empty; download or copy it again')
    if head.startswith(b'version https://git-lfs'):
        raise CheckpointError(f'{path} is a Git LFS pointer, not the file itself; run `git lfs pull` there')
    if re.match(rb'\s*<(!doctype|html|\?xml)', head, re.IGNORECASE):
        raise CheckpointError(f'{path} is a web page, not a checkpoint; the address that it came from is not '
                              'that of the file')
    if head.startswith(b'PK'):
        return _kind_of_zip(path)
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < path.stat().st_size:
        return 'safetensors'
    if head.startswith(b'\x80'):
        return 'torch'
    raise CheckpointError(f'{path} is not a checkpoint: it begins with {head[:16]!r}, unlike files of torch.save '
                          'and safetensors')


def _kind_of_zip(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f'{path} is truncated: its end is missing; download or copy it again')
    with zipfile.ZipFile(path) as archive:
        names = {name.partition('/')[2] for name in archive.namelist()}
        for entry in archive.infolist():
            if entry.CRC and not _is_intact(archive, entry):  # which torch would not notice
                raise CheckpointError(f'{path} is damaged: {entry.filename} in it has changed; download or copy it '
                                      'again')
    if 'constants.pkl' in names:
        raise CheckpointError(f'{path} is a TorchScript program, not a checkpoint; weights are expected')
    if 'data.pkl' not in names:
        raise CheckpointError(f'{path} is a zip archive, but not one that torch.save wrote')
    return 'torch'


def _is_intact(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 24):
                pass
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError):
        return False
    return True


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f'{path} needs safetensors; run: pip install safetensors') from error
    return load_file(path)


def _explain(path: Path, error: Exception) -> str:
    again = 'download or copy it again'
    if match := re.search(r'GLOBAL (\S+) ', str(error)):
        if path.read_bytes()[:-1].endswith(match[1].rpartition('.')[2].encode()):  # half the name of a type
            return f'{path} is truncated: it ends within its first part; {again}'
        return (f'{path} needs the type {match[1]}, and reading that could run code from the file. If you trust '
                'its origin, convert it once with `tools/convert_checkpoint.py --trust`, or read it with trust=True')
    if isinstance(error, ImportError | AttributeError):
        return f'{path} needs a class that is not there: {error}'
    if 'pickle data was truncated' in str(error):
        return f'{path} is truncated; {again}'
    # torch's own text goes on with the advice to read the file unchecked.
    detail = re.sub(r'(?s).*WeightsUnpickler error: ', '', str(error)).strip().partition('\n')[0]
    return f'{path} is damaged, or not written by torch.save; {again} ({detail or type(error).__name__})'
