"""Unpickle checkpoints without running code from them, and reduce their content to plain types."""
import math
import pathlib
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from .files import RefusedError

#: Values that a checkpoint may hold besides the elements of tensors; a few nested tuples can stand for billions.
MOST_VALUES = 200_000
#: Items of an array in ``meta``; larger ones are dropped.
MOST_ITEMS = 10_000
_NUMPY_CODE = re.compile(r'[biufc]\d{1,2}|[SU]\d{1,6}')


class _Built:
    """Stand-in for an object whose state follows in the pickle; :func:`plain` takes its ``value``."""

    def __init__(self, build: Callable[[Any], Any]):
        self.build, self.value = build, None


def _key(value: Any) -> Any:
    """A key of a dict or an item of a set; hashing nested tuples can take forever."""
    if isinstance(value, tuple) and any(isinstance(item, tuple | _Built) for item in value):
        raise RefusedError('has nested tuples as keys')
    return value


def _items(value: Any) -> list | tuple:
    """A list or tuple; a tensor that repeats one number has billions of items."""
    if not isinstance(value, list | tuple):
        raise ValueError('expected a list')
    return value


def _array(state: tuple) -> np.ndarray:
    _, shape, dtype, fortran, raw = state
    if not (isinstance(dtype, np.dtype) and isinstance(raw, bytes) and all(type(size) is int for size in _items(shape))
            and math.prod(shape) * dtype.itemsize == len(raw)):
        raise ValueError('a numpy array does not have the size of its data')
    return np.ndarray(shape, dtype, raw, order='F' if fortran else 'C').copy()


def _dtype(code: str, *_: Any) -> np.dtype:
    if not _NUMPY_CODE.fullmatch(code):
        raise RefusedError(f'holds a numpy array of type {code[:20]!r}; expected numbers or strings of fixed length')
    return np.dtype(code, copy=True)  # its byte order follows


def _set_byte_order(dtype: np.dtype, state: tuple) -> None:
    if state[1] not in ('<', '>', '|', '=') or any(part is not None for part in state[2:5]):  # fields of objects
        raise RefusedError('holds a numpy array with fields; expected numbers or strings of fixed length')
    dtype.__setstate__((3, state[1], None, None, None, dtype.itemsize, dtype.alignment, 0))


def _ordered(items: Any = ()) -> OrderedDict:
    return OrderedDict((_key(key), value) for key, value in _items(items))


def _history(state: Mapping) -> HistoryBuffer:
    log, counts = (state[name].value for name in ('_log_history', '_count_history'))
    if any(array.ndim != 1 or array.dtype.kind not in 'biuf' for array in (log, counts)):
        raise ValueError('a history does not consist of numbers')
    return HistoryBuffer(log, counts, int(state['max_length']))


def _scalar(dtype: np.dtype, raw: bytes) -> Any:
    return _array((1, (), dtype, False, raw)).item()


#: Every global that a pickle may name and call, and why. Nothing else of Python can be reached from a file.
CALLED: dict[str, Callable] = {
    # Tensors of every kind that a model can load; sparse, quantised and traced ones are not among them.
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch._utils._rebuild_tensor_v3': getattr(torch._utils, '_rebuild_tensor_v3', None),  # float8; since torch 2.2
    'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
    'torch.Size': lambda sizes: torch.Size(_items(sizes)),
    'torch.device': torch.device,
    # Containers: of state dicts, of learning rate schedules, of arguments.
    'collections.OrderedDict': _ordered,
    'collections.Counter': lambda counts: Counter({**counts}),
    'builtins.set': lambda items: {_key(item) for item in _items(items)},
    'argparse.Namespace': lambda: _Built(dict),  # arguments of the authors' training
    # Bytes, as protocol 2 writes them.
    '_codecs.encode': lambda text, _: text.encode('latin1'),
    'builtins.bytes': lambda: b'',
    # Arrays and numbers of numpy: the history of losses, numbers in `meta`. numpy 2 has renamed the module.
    'numpy.dtype': _dtype,
    **{f'numpy.{module}.multiarray.{name}': function for module in ('core', '_core')
       for name, function in (('_reconstruct', lambda *_: _Built(_array)), ('scalar', _scalar))},
    # Losses of a run of mmengine; older versions name its functions with getattr, which are not needed.
    'mmengine.logging.history_buffer.HistoryBuffer': lambda: _Built(_history),
    'builtins.getattr': lambda *_: None,
    # Paths in the arguments of a training become strings.
    **{f'{module}.{kind}{system}Path': lambda *parts, path=path: str(path(*parts))
       for system, path in (('Posix', pathlib.PurePosixPath), ('Windows', pathlib.PureWindowsPath))
       for module in ('pathlib', 'pathlib._local') for kind in ('', 'Pure')},
}
#: Every global that a pickle may name only.
NAMED: dict[str, Any] = {
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
    'torch.storage.UntypedStorage': torch.UntypedStorage,
    'numpy.ndarray': np.ndarray,
}
_CALLED_IDS = {id(function) for function in CALLED.values()}


class Unpickler(pickle._Unpickler):
    """Reads a pickle, but calls and changes nothing other than :data:`CALLED` allows."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Look up a global."""
        name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')  # its name in Python 2
        if re.match(r'torch\._utils\._rebuild_(?!tensor_v|parameter$)', name):
            raise RefusedError(f'holds tensors that no model loads ({name}); expected ordinary ones')
        found = CALLED.get(name, NAMED.get(name))
        if found is None:
            raise RefusedError(f'needs the type {name}, and reading that could run code from the file. If you trust '
                               'its origin, convert it once with `tools/convert_checkpoint.py --trust`, or read it '
                               'with trust=True')
        return found

    def load_call(self) -> None:
        """Call an allowed function."""
        args, function = self.stack.pop(), self.stack.pop()
        if id(function) not in _CALLED_IDS or type(args) is not tuple:
            raise RefusedError('calls something that is not a function of a checkpoint')
        self.append(function(*args))

    def load_build(self) -> None:
        """Set the state of an object."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Built:
            target.value = target.build(state)
        elif isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif type(target) is OrderedDict:  # versions of the layers of a state dict
            target._metadata = {name: entry for name, entry in state['_metadata'].items()
                                if isinstance(entry, dict) and isinstance(entry.get('version'), int)}
        else:
            raise RefusedError(f'sets the state of a {type(target).__name__}')

    def load_binpersid(self) -> None:
        """Push a storage."""
        saved = self.stack.pop()
        if type(saved) is not tuple or not saved or saved[0] not in ('storage', b'storage'):
            raise RefusedError('refers to something other than the data of a tensor')
        self.append(self.persistent_load(saved))

    def load_refused(self) -> None:
        """Refuse an instruction that torch.save does not write."""
        raise RefusedError('is not a pickle that torch.save has written')


def _checked(load: Callable[[Unpickler], None], keys: slice) -> Callable[[Unpickler], None]:
    """An instruction that adds keys of a dict or items of a set, which are this part of the stack."""
    def checked(unpickler: Unpickler) -> None:
        for key in unpickler.stack[keys]:
            _key(key)
        load(unpickler)

    return checked


Unpickler.dispatch |= {code[0]: function for code, function in (
    (pickle.REDUCE, Unpickler.load_call), (pickle.NEWOBJ, Unpickler.load_call), (pickle.BUILD, Unpickler.load_build),
    (pickle.BINPERSID, Unpickler.load_binpersid), (pickle.SETITEM, _checked(Unpickler.load_setitem, slice(-2, -1))),
    (pickle.SETITEMS, _checked(Unpickler.load_setitems, slice(0, None, 2))),
    (pickle.ADDITEMS, _checked(Unpickler.load_additems, slice(None))))}
Unpickler.dispatch |= {code[0]: Unpickler.load_refused for code in (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.DICT,
    pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)}


def load(file: Any, **settings: Any) -> Any:
    """Read a pickle, like the function of this name in the module ``pickle``."""
    return Unpickler(file, **settings).load()


def plain(content: Any) -> Any:
    """Reduce the content of a checkpoint to plain types.

    Args:
        content: The unpickled object.

    Returns:
        A copy of its containers; ``meta`` holds numbers, strings, lists, tuples and dicts only.

    Raises:
        RefusedError: If it holds too many values.
    """
    left = MOST_VALUES

    def copy(value: Any, is_meta: bool) -> Any:
        nonlocal left
        left -= 1 + (len(value) >> 12 if isinstance(value, str) else 0)
        if is_meta and isinstance(value, Tensor | np.ndarray | np.generic):
            value = value.tolist() if math.prod(value.shape) <= MOST_ITEMS else None
        if left < 0:
            raise RefusedError(f'holds more than {MOST_VALUES:,} values besides its tensors')
        if isinstance(value, _Built):
            return copy(value.value, is_meta)
        if isinstance(value, str):
            return value if value.isascii() else value.encode(errors='replace').decode()  # no lone surrogates
        if isinstance(value, Mapping):
            kind = next((kind for kind in (OrderedDict, Counter) if isinstance(value, kind)), dict)
            copied = kind({copy(key, False): copy(item, is_meta) for key, item in value.items()})
            if hasattr(value, '_metadata'):
                copied._metadata = value._metadata
            return copied
        for kind in (list, tuple, set):
            if isinstance(value, kind):
                return (list if is_meta and kind is set else kind)(copy(item, is_meta) for item in value)
        return value if not is_meta or isinstance(value, bool | int | float | None) else None

    copied = copy(content, False)
    if isinstance(copied, dict) and 'meta' in copied:
        copied['meta'] = copy(copied['meta'], True)
    return copied
