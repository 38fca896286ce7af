"""Checks of the classes of a detector and its data set before a run starts.

mmdet itself stops with an index error once a test is over, or takes objects for those of another class.
"""
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..errors import ConfigError, DatasetError
from ..segmentation.checks import innermost, known_metainfo


def check_heads(cfg: Config, datasets: Iterable[tuple[str, Mapping]]) -> None:
    """Check that the heads of a detector are for as many classes as its data sets have.

    Args:
        cfg: Config of a detector; one that takes its classes from words, or has heads for only some of them, as for
            panoptic segmentation, is left alone.
        datasets: Key of a loader and config of a data set, for every data set of the run.

    Raises:
        ConfigError: If a head is for another number, or the classes are no list of names.
    """
    model = cfg.get('model') or {}
    if 'language_model' in model or 'semantic_head' in model:
        return
    for loader, dataset in datasets:
        where = f'{cfg.filename or "the config"}, {loader}'
        classes = (dataset.get('metainfo') or {}).get('classes', known_metainfo(dataset, 'mmdet').get('classes'))
        if isinstance(classes, str):
            if os.path.isfile(classes):  # is left to mmengine
                continue
            raise ConfigError(f'{where}: classes={classes!r} is one text and no file; write the names as a list, '
                              f'also a single one: metainfo=dict(classes=[{classes!r}])')
        for head, num_classes in _heads(model):
            if classes is not None and num_classes != len(classes):
                raise ConfigError(f'{where}: the data set has {len(classes)} classes, but '
                                  f'model.{head}.num_classes={num_classes}')


def _heads(model: Mapping) -> Iterator[tuple[str, int]]:
    for prefix, parent in (('', model), ('roi_head.', model.get('roi_head') or {})):
        for name in ('bbox_head', 'mask_head'):
            heads = parent.get(name) or []
            for head in [heads] if isinstance(heads, Mapping) else heads:
                if 'num_classes' in head:
                    yield prefix + name, head['num_classes']


def check_categories(dataset: Any) -> None:
    """Check that the annotations in COCO's format know every class of the data set, in the same order.

    mmdet numbers the classes that they know, in their order, and names them in that of the data set.

    Args:
        dataset: A built data set or a wrapper of some; others are left alone.

    Raises:
        DatasetError: If classes are missing, or in another order.
    """
    for inner in innermost(dataset):
        classes = (getattr(inner, 'metainfo', None) or {}).get('classes')
        known = getattr(inner, 'cat_ids', None)
        if classes is None or known is None:
            continue
        if len(known) < len(classes):
            raise DatasetError(f'{inner.ann_file} knows {len(known)} of the {len(classes)} classes {_few(classes)}; '
                               "give the data set the names of its categories, in the file's order: "
                               'metainfo=dict(classes=[...])')
        in_file = [name for name in _category_names(inner.ann_file) if name in classes]
        if in_file and in_file != list(classes):
            raise DatasetError(f'{inner.ann_file} has the categories in the order {_few(in_file)}, and mmdet numbers '
                               f'them so, but metainfo.classes is {_few(classes)}; bring them into the same order')


def _few(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + ', ...' * (len(names) > 3)


def _category_names(path: str) -> list[str]:
    """The names under ``categories``, or none where they are not to be found without parsing the whole file."""
    key = b'"categories"'
    try:
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(b'[', content.rfind(key), content.rfind(key) + len(key) + 20)
            text = content[start:start + 1_000_000].decode(errors='ignore')
        return [category['name'] for category in json.JSONDecoder().raw_decode(text)[0]]
    except (OSError, ValueError, TypeError, KeyError):
        return []
