"""Class names in checkpoints."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, shortened


def meta_of(checkpoint: Any) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, as mmengine stores it; empty if it has none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) else {}


def classes_of(checkpoint: Any, source: str | Path) -> tuple[str, ...] | None:
    """Names of the classes of a checkpoint, or None if it does not hold them.

    Args:
        checkpoint: A result of :func:`read_checkpoint`.
        source: Its origin, for errors.

    Raises:
        CheckpointError: If they are not a list of strings.
    """
    meta = meta_of(checkpoint)
    stored = meta.get('dataset_meta')
    for place, key in ((stored, 'classes'), (meta, 'CLASSES'), (checkpoint, 'class_names')):  # versions of 2022; others
        classes = place.get(key) if isinstance(place, Mapping) else None
        if classes is not None:
            if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
                raise CheckpointError(f'{source}: {key} is {str(classes)[:50]!r}; expected a list of the names of the '
                                      'classes')
            return tuple(classes)
    return None


def check_classes(checkpoint: Any, classes: Sequence[str] | None, source: str | Path) -> None:
    """Check that a checkpoint predicts the classes of a data set, in the same order.

    Args:
        checkpoint: A result of :func:`read_checkpoint`; passes if it does not hold the names of its classes.
        classes: Names of the classes of the data set; None if they are unknown.
        source: Its origin, for errors.

    Raises:
        CheckpointError: If it predicts other classes, or these in another order.
    """
    stored = classes_of(checkpoint, source)
    if stored is None or classes is None:
        return
    one, other = ([name.strip().lower() for name in names] for names in (stored, classes))
    if one == other:
        return
    if sorted(one) == sorted(other):
        raise CheckpointError(f'{source} has the classes of the config in another order, {", ".join(stored)}; write '
                              f'metainfo=dict(classes={stored}) into the data sets of the config')
    theirs, ours = ([name for name in side if name not in other] for side, other in (
        (stored, classes), (classes, stored)))
    raise CheckpointError(f'{source} was trained on other classes than those of the config: it has '
                          f'{shortened(theirs or stored, 5)}, the config has {shortened(ours or classes, 5)}; use the '
                          'config of its training, or load it with load_from to train on new classes')
