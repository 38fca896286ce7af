"""Surroundings of a conversion: constant scales, and silent converters."""
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.reading import replaced


@contextmanager
def constant_scales() -> Iterator[None]:
    """Let ``F.interpolate`` scale by a constant factor wherever the factor is an integer.

    Toolboxes resize maps to the size of other maps. In an exported graph of flexible size, that size would be computed
    at run time or, after a conversion to Python's ``int``, be fixed to that of the example image.
    """
    original = F.interpolate

    def by_factor(input: Tensor, size=None, scale_factor=None, mode='nearest', align_corners=None, *args, **kwargs):
        if size is not None:
            wanted = [int(number) for number in (size if isinstance(size, Sequence) else [size] * 2)]
            given = [int(number) for number in input.shape[2:]]
            if wanted == given:
                return input
            if not any(w % g for w, g in zip(wanted, given, strict=True)):
                size, scale_factor = None, [float(w // g) for w, g in zip(wanted, given, strict=True)]
        return original(input, size, scale_factor, mode, align_corners, *args, **kwargs)

    with replaced(F, 'interpolate', by_factor):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what converters print, log and warn of; their errors pass."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
