"""Checks that the neck or head takes the channels of the backbone's maps."""
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..archs import out_channels
from ..errors import ConfigError


def check_channels(cfg: Config) -> None:
    """Check ``in_channels`` of the neck or head behind a RepViT against the channels of its maps.

    Args:
        cfg: Config of a model of any toolbox; one with another backbone is left alone.

    Raises:
        ConfigError: If they differ.
    """
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    if str(backbone.get('type')).rpartition('.')[2] != 'RepViT' or 'arch' not in backbone:
        return
    maps = out_channels(backbone['arch'], backbone.get('out_indices', (0, 1, 2, 3)))
    for name in ('neck', 'decode_head', 'head'):  # in the order in which the maps reach them
        follower = model.get(name)
        if isinstance(follower, list | tuple):  # the channels of its members are unknown here
            return
        if follower is None or follower.get('type') == 'GlobalAveragePooling':
            continue
        if 'in_channels' in follower:
            expected = _expected(maps, follower)
            if expected != follower['in_channels'] and expected is not None:
                raise ConfigError(f'model.{name}.in_channels={follower["in_channels"]}, but model.backbone, '
                                  f'{backbone["arch"]}, gives {expected}; change one of them')
        return


def _expected(maps: list[int], follower: Mapping) -> Any:
    """What ``in_channels`` has to be, of the same type; None where it cannot be known here."""
    chosen = follower.get('in_index')
    if isinstance(follower['in_channels'], int):
        return maps[-1 if chosen is None else chosen] if not isinstance(chosen, list | tuple) else None
    if chosen is not None:
        maps = [maps[index] for index in chosen]
    return tuple(maps) if isinstance(follower['in_channels'], tuple) else maps
