"""Bounds of the settings in a config that no library checks, or too late; stated once."""
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError

#: More at a time, or more workers, are a typing error that takes all memory.
_MOST_SAMPLES, _MOST_WORKERS = 65536, 1024


class _Bound(NamedTuple):
    """What the settings whose dotted keys match ``keys`` have to be."""

    keys: str
    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_BOUNDS = [
    _Bound(r'model|model\.backbone|train_cfg|val_cfg|test_cfg|optim_wrapper|default_hooks|randomness'
           r'|(train|val|test)_dataloader', 'a dict',
           lambda value: value is None or isinstance(value, Mapping)),
    _Bound(r'(train|val|test)_dataloader\.dataset', 'a dict', lambda value: isinstance(value, Mapping)),
    _Bound(r'optim_wrapper\.optimizer|model\.(neck|decode_head|head|rpn_head|roi_head)', 'a dict or a list of some',
           lambda value: value is None or isinstance(value, Mapping | list | tuple)),
    _Bound(r'(train|val|test)_dataloader\.batch_size', f'a whole number from 1 to {_MOST_SAMPLES}',
           lambda value: _is_whole(value, 1, _MOST_SAMPLES)),
    _Bound(r'(train|val|test)_dataloader\.num_workers', f'a whole number from 0 to {_MOST_WORKERS}',
           lambda value: _is_whole(value, 0, _MOST_WORKERS)),
    # As train_cfg.max_iters=4e4 is how OpenMMLab writes it.
    _Bound(r'train_cfg\.(max_epochs|max_iters)', 'a whole number, at least 1',
           lambda value: _is_number(value) and value >= 1 and value % 1 == 0),
    _Bound(r'train_cfg\.val_interval', 'a whole number, at least 1',
           lambda value: value == math.inf or (_is_number(value) and value >= 1 and value % 1 == 0)),
    _Bound(r'(default|custom)_hooks\.\w+\.interval', 'a whole number, at least 1, or -1 for never',
           lambda value: _is_whole(value, 1) or value == -1),
    _Bound(r'optim_wrapper\.optimizer\.(lr|weight_decay)', 'a finite number, at least 0',
           lambda value: _is_number(value) and value >= 0),
    _Bound(r'optim_wrapper\.accumulative_counts', 'a whole number, at least 1', lambda value: _is_whole(value, 1)),
    _Bound(r'.*', 'a number', lambda value: not isinstance(value, float) or value == value),
]


def check_settings(cfg: Mapping[str, Any]) -> None:
    """Check numbers and sections of a config before anything is built from it.

    Raises:
        ConfigError: Naming the first setting that is out of bounds, or not a number (NaN).
    """
    for key, value in _settings(cfg):
        for bound in _BOUNDS:
            if re.fullmatch(bound.keys, key) and not bound.holds(value):
                raise ConfigError(f'{key}={str(value)[:100]} must be {bound.expected}')


def _settings(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """The dotted keys of a config, of sections before what is in them, with their values."""
    if key:
        yield key, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, item in items:
        yield from _settings(item, f'{key}.{name}' if key else str(name))
