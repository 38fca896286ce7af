"""Where the data sets of a config are: moving them, and checking that they are there."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..errors import ConfigError, DatasetError, shortened
from ..toolboxes.base import evaluators_of
from ..toolboxes.datasets import LOADERS, datasets_of

EVALUATORS = ('val_evaluator', 'test_evaluator')
#: Images looked up when a data set is opened; others that are missing are reported when they are read.
SPOT_CHECKS = 200


def move_data_root(cfg: Config, root: str) -> None:
    """Make every loader and evaluator use another copy of the data set.

    Args:
        cfg: Changed in place.
        root: What takes the place of the data sets' ``data_root``.

    Raises:
        ConfigError: If the config reads several data sets, or one without a ``data_root``.
    """
    old_roots = set()
    for loader, dataset in datasets_of(cfg):
        if not dataset.get('data_root'):
            raise ConfigError(f'--data-root: the {dataset.get("type", "data set")} of {loader} has no data_root '
                              'that could be moved; set its paths with --cfg-options')
        old_roots.add(dataset['data_root'].rstrip('/'))
    if len(old_roots) != 1:
        raise ConfigError('--data-root moves one data set, but the config reads '
                          f'{shortened(sorted(old_roots)) or "none"}; set their data_root with --cfg-options')
    old, root = old_roots.pop(), os.path.expanduser(root)
    for key in (*LOADERS, *EVALUATORS):
        if key in cfg:
            cfg[key] = _moved(cfg[key], old, root)
    if isinstance(cfg.get('data_root'), str):  # nothing reads it, but it is kept with the logs
        cfg.data_root = _moved(cfg.data_root, old, root)


def _moved(value: Any, old: str, new: str) -> Any:
    """Copy of a config in which what was in ``old`` is in ``new``."""
    if isinstance(value, Mapping):
        return type(value)({key: _moved(item, old, new) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, old, new) for item in value)
    if isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
        return os.path.join(new, value[len(old) + 1:])
    return value


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Check that the data sets are where the config says.

    Args:
        cfg: The config.
        loaders: Keys of the loaders that will be used.

    Raises:
        DatasetError: If a directory or annotation file is missing.
    """
    for loader, dataset in datasets_of(cfg, loaders):
        if dataset.get('backend_args') or '://' in str(dataset.get('data_root')):
            continue  # Not on this file system.
        paths = expected_paths(dataset)
        if missing := [path for path in paths if not os.path.exists(path)]:
            moved = 'give its place with --data-root DIR' if dataset.get('data_root') else 'set its paths'
            raise DatasetError(f'data set not found: {loader} expects {shortened(paths)}, but {missing[0]} is not '
                               f'there (current directory: {os.getcwd()}); put or link it there, or {moved}')
    for key in EVALUATORS:
        if key.partition('_')[0] not in {loader.partition('_')[0] for loader in loaders}:
            continue
        for evaluator in evaluators_of(cfg, key):
            path = evaluator.get('ann_file')
            if path and not evaluator.get('backend_args') and '://' not in path and not os.path.exists(path):
                raise DatasetError(f'{key} expects its annotations in {path}, which is not there')


def expected_paths(dataset: Mapping) -> list[str]:
    """Paths that a data set's config names: its folders of images and labels, and its annotations, or its root."""
    root, prefixes = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    parts = [*(prefixes.values() if isinstance(prefixes, Mapping) else [prefixes]), dataset.get('ann_file')]
    named = [os.path.join(root, part) for part in parts if isinstance(part, str) and part]
    return named or [root] * bool(root)


def check_samples(dataset: Any, expected: Sequence[str]) -> None:
    """Check a data set that has been read: it has samples, and a sample of its images exists.

    Args:
        dataset: The built data set; what follows mmengine's ``BaseDataset`` is checked for its images.
        expected: See :func:`expected_paths`; named in the error.

    Raises:
        DatasetError: If it is empty, or images are missing.
    """
    where = shortened(expected) or type(dataset).__name__
    if not len(dataset):
        raise DatasetError(f'{where} has no samples left')
    if not hasattr(dataset, 'get_data_info'):
        return
    numbers = range(0, len(dataset), max(1, len(dataset) // SPOT_CHECKS))
    paths = [path for path in (dataset.get_data_info(i).get('img_path') for i in numbers)
             if isinstance(path, str) and '://' not in path]
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise DatasetError(f'{len(missing)} of {len(paths)} images that were looked up are missing, first '
                           f'{missing[0]}; the data set is that of {where}')
