"""Read checkpoint files without running code from them."""
import argparse
import codecs
import os
import pathlib
import pickle
import re
import stat
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn
from torch._weights_only_unpickler import _get_allowed_globals

from ..errors import CheckpointError
from .download import fetch
from .formats import strip_wrappers
from .schemes import has_scheme, load_by_scheme

#: Keys of the weights in checkpoints, in the order in which they are looked for: averaged weights last, since the
#: published accuracies are those of the raw weights.
WEIGHT_KEYS = ('state_dict', 'model', 'model_ema', 'state_dict_ema', 'ema_state_dict')


class _History(HistoryBuffer):
    """An mmengine ``HistoryBuffer``, read without the functions in its pickle."""

    def __setstate__(self, state: dict) -> None:
        state.pop('statistics_methods', None)
        super().__setstate__(state)
        self.__class__ = HistoryBuffer


def _no_attribute(*_: object) -> None:
    """Replaces the ``getattr`` in a pickled ``HistoryBuffer``."""


def _plain_types() -> list[tuple[Any, str]]:
    """Allowed types beside tensors, containers, numbers and text: (our class, name in the file)."""
    types = [(argparse.Namespace, 'argparse.Namespace'),
             (_History, 'mmengine.logging.history_buffer.HistoryBuffer'), (_no_attribute, 'builtins.getattr'),
             (np.ndarray, 'numpy.ndarray'), (np.dtype, 'numpy.dtype')]
    array, scalar = np.empty(0).__reduce__()[0], np.float32().__reduce__()[0]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # renamed in numpy 2; files use either
        types += [(array, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    for code in '?bhilqBHILQefd':
        dtype = type(np.dtype(code))
        types.append((dtype, f'{dtype.__module__}.{dtype.__qualname__}'))
    for module in ('pathlib', 'pathlib._local'):
        for system, path in (('Posix', pathlib.PurePosixPath), ('Windows', pathlib.PureWindowsPath)):
            types += [(path, f'{module}.{system}Path'), (path, f'{module}.Pure{system}Path')]
    return types


class _PlainPickle:
    """A ``pickle_module`` for ``torch.load`` that reads plain types only.

    For torch before 2.6, where the types that ``weights_only`` allows cannot be extended.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            types = {'_codecs.encode': codecs.encode, 'builtins.bytearray': bytearray, 'builtins.complex': complex,
                     'builtins.set': set, 'collections.Counter': Counter, 'torch.device': torch.device}
            types |= _get_allowed_globals() | {file_name: our_type for our_type, file_name in _plain_types()}
            module = module.replace('__builtin__', 'builtins')  # its name in Python 2 and protocol 2
            if f'{module}.{name}' not in types:
                raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is not a plain type')
            return types[f'{module}.{name}']

    @classmethod
    def load(cls, file: IO[bytes], **options: Any) -> Any:
        return cls.Unpickler(file, **options).load()


def _load_plain(path: Path | IO[bytes]) -> Any:
    load = torch.serialization.load  # torch.load may be replaced, see schemes.py
    version = tuple(int(number) for number in re.findall(r'\d+', torch.__version__)[:2])
    if version < (2, 6):
        return load(path, map_location='cpu', pickle_module=_PlainPickle, weights_only=False)
    known = set(torch.serialization.get_safe_globals())  # the context would remove what users had allowed
    with torch.serialization.safe_globals([entry for entry in _plain_types() if entry not in known]):
        return load(path, map_location='cpu', weights_only=True)


def read_checkpoint(path_or_name: str | Path, trust: bool = False) -> Any:
    """Read a checkpoint file, onto the CPU.

    Only tensors, containers, numbers, text, numpy arrays, paths, ``argparse.Namespace`` and mmengine's
    ``HistoryBuffer`` are read. A file that needs any other type is refused, because reading it could run code.

    Args:
        path_or_name: A file written by ``torch.save`` or safetensors, a name or address for
            :func:`repvit_mm.checkpoints.fetch`, or one with a scheme of mmengine's ``CheckpointLoader`` (``s3://``,
            ``torchvision://``, ``open-mmlab://``, ...).
        trust: Also read files that need other types, running any code in them.

    Returns:
        The saved object, usually a dict.

    Raises:
        CheckpointError: If the file does not exist, is damaged, is not a checkpoint, or needs other types.
    """
    if has_scheme(str(path_or_name)):
        return load_by_scheme(str(path_or_name), lambda file: _read(file, path_or_name, trust))
    path = fetch(path_or_name)
    return _read(path, path, trust)


def _read(file: str | Path | IO[bytes], name: str | Path, trust: bool) -> Any:
    try:
        if not hasattr(file, 'read'):
            file = Path(file)
            _check_regular(file)
            with file.open('rb') as opened:
                kind = _kind_of(opened, name)
        else:
            kind = _kind_of(file, name)
            file.seek(0)
        if kind == 'safetensors':
            return _read_safetensors(file, name)
        if trust:
            return torch.serialization.load(file, map_location='cpu', weights_only=False)
        return _load_plain(file)
    except CheckpointError:
        raise
    except Exception as error:  # reading other files can raise anything
        raise CheckpointError(_explain(file, name, error)) from error


def tensors_of(checkpoint: Any, source: str | Path, prefix: str = '') -> 'OrderedDict[str, Tensor]':
    """Find the weights in the content of a checkpoint file.

    Args:
        checkpoint: A state dict, a dict with one under one of :data:`WEIGHT_KEYS`, or a module.
        source: Where it is from, for errors.
        prefix: Select tensors whose names start with this.

    Returns:
        Name -> tensor, without ``prefix`` and the prefixes of wrappers.

    Raises:
        CheckpointError: If there are no tensors, or unsupported ones.
    """
    weights = find_weights(checkpoint, source)
    tensors = OrderedDict((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise CheckpointError(f'{source}: a tensor has the name {name!r}; expected a string')
        if kind := _oddity(value):
            raise CheckpointError(f'{source}: {name} is {kind}; expected an ordinary tensor')
    if isinstance(metadata := getattr(weights, '_metadata', None), Mapping):
        tensors._metadata = metadata
    try:
        tensors = strip_wrappers(tensors)
    except CheckpointError as error:
        raise CheckpointError(f'{source}: {error}') from error
    if prefix:
        prefix = f'{prefix.removesuffix(".")}.'
        tensors = OrderedDict((name[len(prefix):], value) for name, value in tensors.items()
                              if name.startswith(prefix))
        if not tensors:
            raise CheckpointError(f'{source} holds no tensors under {prefix}; its first one is {next(iter(weights))}')
    return tensors


def find_weights(checkpoint: Any, source: str | Path) -> Mapping:
    """The part of a checkpoint that holds the weights, see :func:`tensors_of`."""
    if isinstance(checkpoint, nn.Module):
        return checkpoint.state_dict()
    if isinstance(checkpoint, Mapping):
        for candidate in (*(checkpoint.get(key) for key in WEIGHT_KEYS), checkpoint):
            if isinstance(candidate, nn.Module):
                return candidate.state_dict()
            if isinstance(candidate, Mapping) and any(isinstance(value, Tensor) for value in candidate.values()):
                return candidate
        content = f'a dict with {", ".join(map(str, list(checkpoint)[:5])) or "no keys"}'
    else:
        content = f'a {type(checkpoint).__name__}'
    raise CheckpointError(f'{source} holds no tensors, but {content}; expected weights at the top level, or under one '
                          f'of {", ".join(WEIGHT_KEYS)}')


def invalid_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is infinite or not a number."""
    return [name for name, value in tensors.items() if value.is_floating_point()
            and not (value if value.element_size() > 1 else value.float()).isfinite().all()]


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise a CheckpointError if a value of ``tensors``, from ``source``, is infinite or NaN."""
    if bad := invalid_tensors(tensors):
        raise CheckpointError(f'{source}: {len(bad)} of {len(tensors)} tensors hold infinite values or NaN, first '
                              f'{bad[0]}; the training has diverged, use an earlier checkpoint')


def _oddity(value: Tensor) -> str | None:
    """Why a tensor cannot be loaded into a model, or None."""
    if value.layout != torch.strided:
        return f'sparse ({value.layout})'
    if value.is_meta:
        return 'without values (on the device meta)'
    if value.is_quantized or value.is_complex():
        return f'of type {value.dtype}'
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f'incomplete: the file does not hold all of its {value.numel():,} values'
    return None


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null byte in the name
        raise CheckpointError(f'there is no file {path}') from error
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}') from error
    if not stat.S_ISREG(mode):
        kind = 'a directory' if stat.S_ISDIR(mode) else 'a pipe, socket or device'
        raise CheckpointError(f'{path} is {kind}; expected a checkpoint file')


def _kind_of(file: IO[bytes], name: str | Path) -> str:
    """``'torch'`` or ``'safetensors'``, by the first bytes; raises for anything else."""
    head = file.read(512)
    size = file.seek(0, os.SEEK_END)
    if not head:
        raise CheckpointError(f'{name} is empty; download or copy it again')
    if head.startswith(b'version https://git-lfs'):
        raise CheckpointError(f'{name} is a Git LFS pointer, not the file itself; run `git lfs pull` there')
    if re.match(rb'\s*<(!doctype|html|\?xml)', head, re.IGNORECASE):
        raise CheckpointError(f'{name} is a web page, not a checkpoint; download it again from the address of the '
                              'file itself')
    if head.startswith(b'PK'):
        return _kind_of_zip(file, name, size)
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < size:
        return 'safetensors'
    if head.startswith(b'\x80'):
        return 'torch'
    raise CheckpointError(f'{name} is not a checkpoint: it begins with {head[:16]!r}, unlike files written by '
                          'torch.save and safetensors')


def _kind_of_zip(file: IO[bytes], name: str | Path, size: int) -> str:
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f'{name} is truncated: its end is missing; download or copy it again')
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.partition('/')[2] for entry in entries}
        if 'constants.pkl' in names:
            raise CheckpointError(f'{name} is a TorchScript program, not a checkpoint; expected weights')
        if 'data.pkl' not in names:
            raise CheckpointError(f'{name} is a zip archive, but not one written by torch.save')
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f'{name} is a compressed zip archive, which torch.save does not write; unpack it '
                                  'and save it again with torch')
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f'{name} is damaged: its parts are larger than the file')
        for entry in entries:
            if entry.CRC and not _is_intact(archive, entry):  # torch does not check this
                raise CheckpointError(f'{name} is damaged: the checksum of {entry.filename} in it is wrong; download '
                                      'or copy it again')
    return 'torch'


def _is_intact(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 24):
                pass
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError):
        return False
    return True


def _read_safetensors(file: Path | IO[bytes], name: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load, load_file
    except ImportError as error:
        raise CheckpointError(f'{name} needs safetensors; run: pip install safetensors') from error
    return load_file(file) if isinstance(file, Path) else load(file.read())


def _explain(file: Path | IO[bytes], name: str | Path, error: Exception) -> str:
    again = 'download or copy it again'
    if match := re.search(r'GLOBAL (\S+) ', str(error)):
        if isinstance(file, Path) and file.read_bytes()[:-1].endswith(match[1].rpartition('.')[2].encode()):
            return f'{name} is truncated: it ends within its first part; {again}'  # in the name of a type
        return (f'{name} needs the type {match[1]}, and reading that could run code from the file. If you trust '
                'its origin, convert it once with `tools/convert_checkpoint.py --trust`, or read it with trust=True')
    if isinstance(error, ImportError | AttributeError):
        return f'{name} needs a class that cannot be imported: {error}'
    if 'pickle data was truncated' in str(error):
        return f'{name} is truncated; {again}'
    # Without torch's advice to read the file unchecked.
    detail = re.sub(r'(?s).*WeightsUnpickler error: ', '', str(error)).strip().partition('\n')[0]
    return f'{name} is damaged, or not written by torch.save; {again} ({detail or type(error).__name__})'
