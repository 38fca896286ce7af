"""The schemes of mmengine's CheckpointLoader, such as ``s3://``: it knows where the bytes are, and we read them."""
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mmengine.runner.checkpoint
import torch
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError, UserError
from .download import SCHEME, fetch


def has_scheme(name: str) -> bool:
    """Whether mmengine knows where ``name`` is: ``s3://...``, ``torchvision://...``; not files, http and our own."""
    ours = ('', 'http://', 'https://', SCHEME)
    return any(re.match(prefix, name) for prefix in CheckpointLoader._schemes if prefix not in ours)


def load_by_scheme(name: str, read: Callable[[Any], Any]) -> Any:
    """Load a checkpoint as mmengine does, but for the reading and for what comes over http.

    Args:
        name: With a scheme, see :func:`has_scheme`.
        read: Path or binary file -> content; takes the place of ``torch.load``.

    Raises:
        CheckpointError: If it cannot be had.
    """
    load = CheckpointLoader._get_checkpoint_loader(name)
    try:
        with _replaced(torch, 'load', lambda file, *_, **__: read(file)), \
                _replaced(mmengine.runner.checkpoint, 'load_from_http', lambda url, *_, **__: read(fetch(url))):
            return load(name, map_location='cpu')
    except UserError:
        raise
    except Exception as error:  # from a client of some store
        reason = ' '.join(str(error).split())[:200]
        raise CheckpointError(f'{name} cannot be loaded: {type(error).__name__}: {reason}') from error


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
