"""Surroundings of a conversion: operations that graphs have, and silent converters."""
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..checkpoints.reading import replaced
from ..ops.maps import carafe


@contextmanager
def traceable() -> Iterator[None]:
    """Replace operations that graphs lack.

    ``F.interpolate`` scales by a constant factor wherever the factor is an integer: toolboxes resize maps to the size
    of other maps, which a graph of flexible size would compute at run time or, after a conversion to Python's ``int``,
    fix to that of the example image. Adaptive pooling to a size that does not divide the map's is two matrix products.
    CARAFE and deformable convolutions are plain torch.
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

    with ExitStack() as stack:
        stack.enter_context(replaced(F, 'interpolate', by_factor))
        stack.enter_context(replaced(F, 'adaptive_avg_pool2d', pool))
        stack.enter_context(replaced(Tensor, 'new_ones', lambda x, *size: torch.ones(size, dtype=x.dtype)))
        if 'mmcv.ops' in sys.modules:
            stack.enter_context(replaced(sys.modules['mmcv.ops.carafe'].CARAFEPack, 'forward', _upsample))
            stack.enter_context(replaced(sys.modules['mmcv.ops.deform_conv'], 'deform_conv2d', _deform_conv))
            stack.enter_context(replaced(sys.modules['mmcv.ops.modulated_deform_conv'], 'modulated_deform_conv2d',
                                         _modulated_deform_conv))
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


def _deform_conv(x: Tensor, offset: Tensor, weight: Tensor, *geometry) -> Tensor:
    """mmcv's deformable convolution; its last arguments are for other devices."""
    return _modulated_deform_conv(x, offset, None, weight, None, *geometry[:5])


def _modulated_deform_conv(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
                           stride: int | tuple[int, int], padding: int | tuple[int, int],
                           dilation: int | tuple[int, int], groups: int, deform_groups: int) -> Tensor:
    """mmcv's deformable convolution with modulated samples; tensors of more than five axes would not do in Core ML."""
    stride, padding, dilation, kernel = map(_pair, (stride, padding, dilation, tuple(weight.shape[2:])))
    channels, (height, width) = x.shape[1] // deform_groups, x.shape[2:]
    rows, columns = (torch.arange((x.shape[axis + 2] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1)
                                  // stride[axis] + 1) for axis in (0, 1))
    size, number = (rows.shape[0], columns.shape[0]), kernel[0] * kernel[1]
    # As mmcv: DyHead gives more offsets than samples.
    offset, mask = (value if value is None else value.flatten(1)[:, :parts * deform_groups * number * size[0] * size[1]]
                    .reshape(-1, number, parts, *size) for value, parts in ((offset, 2), (mask, 1)))
    taps = torch.tensor([(dilation[0] * i, dilation[1] * j) for i in range(kernel[0]) for j in range(kernel[1])])
    down = offset[:, :, 0] + (taps[:, :1, None] + (rows * stride[0] - padding[0])[:, None])
    across = offset[:, :, 1] + (taps[:, 1:, None] + (columns * stride[1] - padding[1]))
    places = torch.stack([(2 * across + 1) / width, (2 * down + 1) / height], -1) - 1
    samples = F.grid_sample(x.reshape(-1, channels, height, width), places.flatten(1, 2), align_corners=False)
    if mask is not None:
        samples = samples * mask.reshape(-1, 1, number * size[0], size[1])
    samples = samples.reshape(-1, groups, x.shape[1] // groups * number, size[0] * size[1])
    result = (weight.reshape(groups, weight.shape[0] // groups, -1) @ samples).reshape(-1, weight.shape[0], *size)
    return result if bias is None else result + bias[:, None, None]


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
