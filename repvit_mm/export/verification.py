"""What the exporters share: checks before the conversion, and the comparison of the file with PyTorch."""
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.reading import replaced
from ..errors import ExportError
from ..models.inference import InferenceModel
from ..network.folding import Fusible
from ..network.fusion import fuse


class Bounds(NamedTuple):
    """What an exported file may differ from PyTorch by.

    Attributes:
        outputs: Largest difference of a tensor, relative to its largest value.
        boxes: Of a box, relative to the longer side of the image.
        scores: Of a score.
        masks: Of the probability of a pixel.
        noise: In standard deviations of the pixels: what moves PyTorch's detections about as much as the precision.
    """

    outputs: float
    boxes: float
    scores: float
    masks: float
    noise: float


#: Precision -> bounds. Single: rounding in another order of sums. Half: weights that are rounded to 11 bits.
BOUNDS = {'fp32': Bounds(2e-5, 5e-5, 1e-4, 2e-2, 2e-6), 'fp16': Bounds(2e-2, 5e-3, 1e-2, 0.1, 1e-3)}


class Verdict(NamedTuple):
    """What an int8 file costs in accuracy.

    Attributes:
        judge: What was measured, on how many pictures.
        pytorch: Name of a metric -> its value in PyTorch, 0 to 100.
        file: The same of the file.
        limit: Points that it may lose.
    """

    judge: str
    pytorch: dict[str, float]
    file: dict[str, float]
    limit: float

    @property
    def lost(self) -> float:
        """Points, of the metric that loses most; 0 if none does."""
        return max(0., *(value - self.file[name] for name, value in self.pytorch.items()))

    def __str__(self) -> str:
        values = (f'{name} {self.file[name]:.1f} (PyTorch {value:.1f})' for name, value in self.pytorch.items())
        return f'{", ".join(values)}, {self.judge}'


class Comparison(NamedTuple):
    """An output of an exported file beside PyTorch's.

    Attributes:
        output: Its name.
        shape: Its shape.
        difference: The largest difference, relative to the largest value of PyTorch's.
        rms: Root mean square of the difference, relative to PyTorch's root mean square.
        bound: What ``difference`` must not exceed.
    """

    output: str
    shape: tuple[int, ...]
    difference: float
    rms: float
    bound: float


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with PyTorch.

    Attributes:
        path: The file or package.
        size: Of it, in bytes.
        operations: Operation -> number of occurrences.
        comparisons: One for each output and input size.
        runner: The engine that ran the file.
        verdict: What an int8 file costs in accuracy; its outputs are not compared.
    """

    path: Path
    size: int
    operations: Counter[str]
    comparisons: tuple[Comparison, ...]
    runner: str
    verdict: Verdict | None = None


class GraphNode(NamedTuple):
    """What :func:`check_fused` needs to know of an operation in an exported graph.

    Attributes:
        kind: ``'conv'``, ``'norm'`` or ``'other'``.
        source: Name of its input.
        depthwise: Whether it is a depthwise convolution.
    """

    kind: str
    source: str
    depthwise: bool = False


def check_shape(model: InferenceModel, shape: Sequence[int]) -> None:
    """Check that the model can be exported for a size of image.

    Raises:
        ExportError: If the size is not positive, or not a multiple of 32 for a model that adds feature maps of
            several resolutions.
    """
    height, width = shape
    stride = max(model.backbone.out_strides)
    if height < 1 or width < 1:
        raise ExportError(f'the shape {height} {width} must be positive')
    if model.task.adds_maps and (height % stride or width % stride):
        fit = ' '.join(str(-(-size // stride) * stride) for size in shape)
        raise ExportError(f'the shape {height} {width} must be a multiple of {stride} for {model.task.name}, which '
                          f'adds feature maps of several resolutions; the next larger one is {fit}')


def fused_for_export(model: InferenceModel) -> InferenceModel:
    """A fused copy, in single precision on the CPU.

    Raises:
        ExportError: If a part of it cannot be fused.
    """
    fused = fuse(model).float().cpu()
    for name, module in fused.named_modules():
        norms = module.norms() if isinstance(module, Fusible) else [module]
        if kinds := {type(norm).__name__ for norm in norms if isinstance(module, Fusible | _BatchNorm)}:
            raise ExportError(f'{model.name} cannot be exported: {name.removeprefix("model.")} has a '
                              f'{" and a ".join(sorted(kinds))}, which cannot be fused')
    return fused.requires_grad_(False)


@torch.no_grad()
def count_convolutions(model: nn.Module, *inputs: Tensor) -> int:
    """Number of convolutions in a forward pass."""
    calls: Counter[str] = Counter()
    hooks = [module.register_forward_hook(lambda *_: calls.update(['conv']))
             for module in model.modules() if isinstance(module, nn.Conv2d)]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return calls['conv']


def check_fused(nodes: Iterable[GraphNode], convolutions: int) -> None:
    """Check that an exported graph is the fused form.

    Args:
        nodes: All operations of the graph.
        convolutions: Number of convolutions in the fused model.

    Raises:
        ExportError: If it has a BatchNorm, two depthwise branches on one input, or another number of convolutions.
    """
    nodes = list(nodes)
    if norms := [node for node in nodes if node.kind == 'norm']:
        raise ExportError(f'the exported graph is not fused: it has {len(norms)} BatchNorms, the first one after '
                          f'{norms[0].source}')
    branches = Counter(node.source for node in nodes if node.kind == 'conv' and node.depthwise)
    if double := [source for source, number in branches.items() if number > 1]:
        raise ExportError(f'the exported graph is not fused: {len(double)} token mixers still have a second depthwise '
                          f'branch, the first one after {double[0]}')
    found = sum(node.kind == 'conv' for node in nodes)
    if found != convolutions:
        raise ExportError(f'the exported graph has {found} convolutions, the fused model {convolutions}')


def compare(output: str, exported: Tensor, expected: Tensor, bound: float) -> Comparison:
    """Compare an output with PyTorch's.

    Raises:
        ExportError: If the shapes differ, or the values by more than ``bound`` times the largest value.
    """
    if exported.shape != expected.shape:
        raise ExportError(f"{output} has shape {tuple(exported.shape)}, PyTorch's {tuple(expected.shape)}")
    exported, expected = exported.double(), expected.double()
    difference = exported - expected
    largest = expected.abs().max()
    result = Comparison(output, tuple(expected.shape), (difference.abs().max() / largest).item(),
                        (difference.norm() / expected.norm()).item(), bound)
    if not result.difference <= bound:  # also true for NaN
        raise ExportError(f"{output} differs from PyTorch's by {result.difference:.2g} of the largest value, "
                          f'more than {bound:g}')
    return result


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


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob('*')] if file.is_file())
