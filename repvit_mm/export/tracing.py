"""Surroundings of a conversion: operations that graphs have, and silent converters."""
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout

import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.reading import replaced
from ..ops.maps import carafe


@contextmanager
def traceable() -> Iterator[None]:
    """Let ``F.interpolate`` scale by a constant factor wherever the factor is an integer, and CARAFE be plain torch.

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

    mmcvs = sys.modules.get('mmcv.ops.carafe')
    with (replaced(F, 'interpolate', by_factor),
          replaced(mmcvs.CARAFEPack, 'forward', _upsample) if mmcvs else nullcontext()):
        yield


def _upsample(pack: nn.Module, x: Tensor) -> Tensor:
    """mmcv's CARAFE, which otherwise is an operation of its own in ONNX and fails without regions."""
    kernels = F.pixel_shuffle(pack.content_encoder(pack.channel_compressor(x)), pack.scale_factor)
    n, channels, h, w = kernels.shape
    kernels = kernels.view(n, pack.up_group, pack.up_kernel ** 2, h, w).softmax(2).view(n, channels, h, w)
    return carafe(x, kernels, pack.up_kernel, pack.up_group, pack.scale_factor)


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
