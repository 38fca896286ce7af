"""Writes Python values as OpenMMLab's configs are written: ``dict(...)``, in lines that are not too long."""
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 110


class Code(str):
    """An expression, written as it is."""


def assign(name: str, value: Any) -> str:
    """``NAME = VALUE``, and the end of the line."""
    return f'{name} = {to_code(value, 0, len(name) + 3)}\n'


def to_code(value: Any, indent: int = 0, before: int = 0) -> str:
    """A value as code.

    Args:
        value: Mappings with names as keys, sequences, and what has a ``repr``.
        indent: Columns by which lines after the first one are indented.
        before: Columns before the value in its first line.
    """
    flat = _flat(value)
    if before + len(flat) <= WIDTH or isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return flat
    pad = ' ' * (indent + 4)
    if isinstance(value, Mapping):
        lines = [f'{pad}{key}={to_code(item, indent + 4, indent + len(key) + 6)}' for key, item in value.items()]
        return 'dict(\n' + ',\n'.join(lines) + ')'
    opening, closing = '()' if isinstance(value, tuple) else '[]'
    if any(isinstance(item, Mapping) for item in value):
        return opening + '\n' + ''.join(f'{pad}{to_code(item, indent + 4, indent + 4)},\n' for item in value) + (
            ' ' * indent + closing)
    return f'{opening}\n{_filled(value, pad)}{closing}'


def _flat(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str) and value.startswith('{{'):  # in its place mmengine puts a path, perhaps with apostrophes
        return f'"{value}"'
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_flat(item)}" for key, item in value.items())})'
    if isinstance(value, tuple):
        return f'({", ".join(map(_flat, value))}{"," * (len(value) == 1)})'
    return f'[{", ".join(map(_flat, value))}]' if isinstance(value, list) else repr(value)


def _filled(items: Sequence, pad: str) -> str:
    """Items one after another, in as few lines as they take."""
    lines = [pad]
    for i, item in enumerate(items):
        text = _flat(item) + ('' if i == len(items) - 1 else ', ')
        if len(lines[-1]) + len(text) > WIDTH and lines[-1] != pad:
            lines.append(pad)
        lines[-1] += text
    return '\n'.join(line.rstrip() for line in lines)
