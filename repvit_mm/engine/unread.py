"""Finds unread settings: accepted in silence by ``**kwargs`` or in dicts, without effect."""
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Event -> the sections that a run has read by then: its first training iteration, or its first evaluation.
SECTIONS = {
    'train': re.compile(r'(?!model\.test_cfg)(model|(train|val)_dataloader|train_cfg|optim_wrapper|param_scheduler'
                        r'|auto_scale_lr|(default|custom)_hooks|env_cfg|model_wrapper_cfg|randomness|val_evaluator|log_processor)\.'),
    'val': re.compile(r'model\.test_cfg\.'),
    'test': re.compile(r'(model\.test_cfg|test_dataloader|test_evaluator|env_cfg)\.'),
}
#: Read under conditions only (several processes, random weights, detections); and a relic in the configs of mmdet.
_EXEMPT = re.compile(r'(env_cfg\.dist_cfg\.backend|model_wrapper_cfg\.(type|find_unused_parameters|broadcast_buffers)'
                     r'|.*\b(init_cfg|nms)\b.*|.*\.(debug|max_per_img|mask_thr_binary))$')


class _Key(str):
    """A key of a config that notes that it is looked up, or matches the name of an argument.

    Both compare it with a plain name, and copies of a dict share their keys.
    """

    is_read = False
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        equal = str.__eq__(self, other)
        self.is_read = self.is_read or equal is True
        return equal

    def __deepcopy__(self, memo: dict) -> '_Key':
        return self

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (str(self),)


def observed(settings: Any, kind: type[str] = _Key) -> Any:
    """A copy of settings whose keys note that they are read; with ``kind=str``, one with plain keys."""
    if isinstance(settings, Mapping):
        return type(settings)({kind(key) if isinstance(key, str) else key: observed(value, kind)
                               for key, value in settings.items()})
    return type(settings)(observed(item, kind) for item in settings) if type(settings) in (list, tuple) else settings


def unread(settings: Mapping[str, Any], event: str) -> dict[str, str]:
    """The settings that nothing has read: dotted key -> the key with a hint.

    Args:
        settings: From :func:`observed`.
        event: A key of :data:`SECTIONS`; settings that are read later are left out.
    """
    found = {}
    read, rest = _sorted(settings)
    for key in rest:
        if SECTIONS[event].match(key) and not _EXEMPT.match(key):
            name = key.rpartition('.')[2]
            close = difflib.get_close_matches(name, read - {name}, n=1)
            found[key] = f'{key} (did you mean {close[0]}?)' if close else key
    return found


def _sorted(settings: Any, prefix: str = '') -> tuple[set[str], list[str]]:
    """The names that were read, and the dotted keys that were not. A section is read if anything in it is."""
    read, rest = set(), []
    for key, value in _items(settings):
        names, keys = _sorted(value, f'{prefix}{key}.')
        names |= {str(key)} if getattr(key, 'is_read', False) else set()
        rest += keys or ([f'{prefix}{key}'] if isinstance(key, _Key) and not names else [])
        read |= names
    return read, rest


def _items(settings: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(settings, Mapping):
        return iter(settings.items())
    return enumerate(settings) if isinstance(settings, list | tuple) else iter(())
