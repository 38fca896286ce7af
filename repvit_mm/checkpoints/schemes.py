"""Support for the schemes of mmengine's CheckpointLoader, such as ``s3://``: it opens the file, our reader reads it."""
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import getattr_static
from typing import Any

import mmengine.runner.checkpoint
import torch
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError, UserError
from .download import RELEASE, SCHEME, fetch


def has_scheme(name: str) -> bool:
    """Whether ``name`` has a scheme of mmengine (``s3://``, ``torchvision://``, ...) other than http and ours."""
    ours = ('', 'http://', 'https://', SCHEME, RELEASE)
    return any(re.match(prefix, name) for prefix in CheckpointLoader._schemes if prefix not in ours)


def load_by_scheme(name: str, read: Callable[[Any], Any]) -> Any:
    """Load a checkpoint with mmengine's loader, but with our reading and our download over http.

    Args:
        name: With a scheme, see :func:`has_scheme`.
        read: Path or binary file -> content; replaces ``torch.load``.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    load = CheckpointLoader._get_checkpoint_loader(name)
    try:
        with replaced(torch, 'load', lambda file, *_, **__: read(file)), \
                replaced(mmengine.runner.checkpoint, 'load_from_http', lambda url, *_, **__: read(fetch(url))):
            return load(name, map_location='cpu')
    except UserError:
        raise
    except Exception as error:  # clients of storage services can raise anything
        reason = ' '.join(str(error).split())[:200]
        raise CheckpointError(f'{name} cannot be loaded: {type(error).__name__}: {reason}') from error


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give ``owner`` another attribute ``name`` inside of a ``with``."""
    before = getattr_static(owner, name)  # a static method stays one
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
