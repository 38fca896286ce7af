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
    """Replace operations that graphs lack.

    ``F.interpolate`` scales by a constant factor wherever the factor is an integer: toolboxes resize maps to the size
    of other maps, which a graph of flexible size would compute at run time or, after a conversion to Python's ``int``,
    fix to that of the example image. Adaptive pooling to a size that does not divide the map's is two matrix products.
    CARAFE is plain torch.
    """
    original, adaptive_pool = F.interpolate, F.adaptive_avg_pool2d

    def by_factor(input: Tensor, size=None, scale_factor=None, mode='nearest', align_corners=None, *args, **kwargs):
        if size is not None:
            wanted = [int(number) for number in (size if isinstance(size, Sequence) else [size] * 2)]
            given = [int(number) for number in input.shape[2:]]
            if wanted == given:
                return input
            if not any(w % g for w, g in zip(wanted, given, strict=True)):
                size, scale_factor = None, [float(w // g) for w, g in zip(wanted, given, strict=True)]
        return original(input, size, scale_factor, mode, align_corners, *args, **kwargs)

    def pool(input, output_size):
        given = [int(number) for number in input.shape[-2:]]
        wanted = [number or length for number, length in zip(
            output_size if isinstance(output_size, Sequence) else [output_size] * 2, given, strict=True)]
        if not any(length % number for length, number in zip(given, wanted, strict=True)):
            return adaptive_pool(input, output_size)
        rows, columns = (input.new_tensor(_averages(*pair)) for pair in zip(given, wanted, strict=True))
        return rows @ input @ columns.T

    mmcvs = sys.modules.get('mmcv.ops.carafe')
    with (replaced(F, 'interpolate', by_factor), replaced(F, 'adaptive_avg_pool2d', pool),
          replaced(mmcvs.CARAFEPack, 'forward', _upsample) if mmcvs else nullcontext()):
        yield


def _averages(length: int, number: int) -> list[list[float]]:
    """The share of each cell of a row (columns) in each cell of its adaptive pooling (rows)."""
    edges = [(i * length // number, -(-(i + 1) * length // number)) for i in range(number)]
    return [[(start <= j < end) / (end - start) for j in range(length)] for start, end in edges]


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
