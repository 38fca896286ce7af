"""Checks of the classes of a detector and its data set before a run starts.

mmdet itself stops with an index error once a test is over, or takes objects for those of another class.
"""
import os
from collections.abc import Iterable, Iterator, Mapping
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
    """Check that the annotations in COCO's format know every class of the data set.

    mmdet numbers the classes that they do know.

    Args:
        dataset: A built data set or a wrapper of some; others are left alone.

    Raises:
        DatasetError: If classes are missing.
    """
    for inner in innermost(dataset):
        classes = (getattr(inner, 'metainfo', None) or {}).get('classes')
        known = getattr(inner, 'cat_ids', None)
        if classes is not None and known is not None and len(known) < len(classes):
            named = ', '.join(classes[:3]) + ', ...' * (len(classes) > 3)
            raise DatasetError(f'{inner.ann_file} knows {len(known)} of the {len(classes)} classes {named}; give the '
                               "data set the names of its categories, in the file's order: "
                               'metainfo=dict(classes=[...])')
