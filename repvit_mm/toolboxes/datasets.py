"""The data sets in a config's data loaders, and those in built wrappers."""
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..errors import DatasetError, shortened

#: Images looked up when a data set is opened; others that are missing are reported when they are read.
SPOT_CHECKS = 200
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def datasets_of(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[tuple[str, dict]]:
    """Find the data sets of the loaders, including those in wrappers (repeated, concatenated, ...).

    Yields:
        Key of the loader, and the config of a data set that wraps no other.
    """
    for loader in loaders:
        yield from ((loader, dataset) for dataset in datasets_in((cfg.get(loader) or {}).get('dataset')))


def datasets_in(dataset: Any) -> Iterator[dict]:
    """Find the configs of the innermost data sets in the config of a data set."""
    if not isinstance(dataset, Mapping):
        return
    inside = dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])
    for wrapped in inside:
        yield from datasets_in(wrapped)
    if not inside:
        yield dataset


def innermost(dataset: Any) -> Iterator[Any]:
    """The data sets in built wrappers, or the data set itself."""
    if not hasattr(dataset, 'datasets') and not hasattr(dataset, 'dataset'):
        yield dataset
        return
    for wrapped in getattr(dataset, 'datasets', None) or [dataset.dataset]:
        yield from innermost(wrapped)


def expected_paths(dataset: Mapping) -> list[str]:
    """Paths in a data set's config: its folders of images and labels, and its annotations, or else its root."""
    root, prefixes = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    parts = [*(prefixes.values() if isinstance(prefixes, Mapping) else [prefixes]), dataset.get('ann_file')]
    named = [os.path.join(root, part) for part in parts if isinstance(part, str) and part]
    return named or [root] * bool(root)


def check_samples(dataset: Any, expected: Sequence[str]) -> None:
    """Check that a data set has samples, and that a selection of its images exists.

    Args:
        dataset: The built data set; one that follows mmengine's ``BaseDataset`` is checked for its images.
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
        raise DatasetError(f'{len(missing)} of {len(paths)} checked images are missing, first '
                           f'{missing[0]}; the data set is that of {where}')
