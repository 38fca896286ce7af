"""The data sets in a config's data loaders, and those in built wrappers."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

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


def known_metainfo(dataset: Mapping, scope: str) -> Mapping:
    """``METAINFO`` of the class that a data set's config names; empty if that is not registered.

    Args:
        dataset: The config.
        scope: Scope of the toolbox that the class belongs to.
    """
    kind = dataset.get('type')
    kind = DATASETS.get(kind if '.' in kind else f'{scope}.{kind}') if isinstance(kind, str) else kind
    return getattr(kind, 'METAINFO', {})
