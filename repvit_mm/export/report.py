"""Results of an export: differences from PyTorch, and their bounds."""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Bounds(NamedTuple):
    """Largest allowed differences of an exported file from PyTorch.

    Attributes:
        outputs: Of a tensor, relative to its largest value.
        boxes: Of a box, relative to the longer side of the image.
        scores: Of a score.
        masks: Of the probability of a pixel.
        noise: Standard deviation of noise on a pixel, 0 to 255, that moves PyTorch's detections about as much as the
            precision.
    """

    outputs: float
    boxes: float
    scores: float
    masks: float
    noise: float


#: Precision -> bounds. Single: another order of sums. Half: weights and maps rounded to 11 bits.
BOUNDS = {'fp32': Bounds(2e-5, 5e-5, 1e-4, 2e-2, 1.2e-4), 'fp16': Bounds(2e-2, 5e-3, 1e-2, 0.1, 0.06)}


class Verdict(NamedTuple):
    """Accuracy of an int8 file.

    Attributes:
        judge: Measured data and number of images.
        pytorch: Metric -> PyTorch's value, 0 to 100.
        file: Metric -> the file's value.
        limit: Points that the file may lose.
    """

    judge: str
    pytorch: dict[str, float]
    file: dict[str, float]
    limit: float

    @property
    def lost(self) -> float:
        """Points lost in the metric that loses most; 0 if none does."""
        return max(0., *(value - self.file[name] for name, value in self.pytorch.items()))

    def __str__(self) -> str:
        values = (f'{name} {self.file[name]:.1f} (PyTorch {value:.1f})' for name, value in self.pytorch.items())
        return f'{", ".join(values)}, {self.judge}'


class Comparison(NamedTuple):
    """An output of an exported file beside PyTorch's.

    Attributes:
        output: Its name.
        shape: Its shape.
        difference: Largest difference, relative to the largest value of PyTorch's.
        bound: Largest allowed ``difference``.
    """

    output: str
    shape: tuple[int, ...]
    difference: float
    bound: float


class HalfRange(NamedTuple):
    """The largest value that a layer computes in half precision.

    Attributes:
        largest: Its absolute value.
        layer: The layer.
    """

    largest: float
    layer: str

    #: The largest number of half precision.
    LIMIT = 65504.

    @property
    def share(self) -> float:
        """``largest`` as a share of :attr:`LIMIT`."""
        return self.largest / self.LIMIT


@dataclass(frozen=True)
class ExportReport:
    """A written file, and its differences from PyTorch.

    Attributes:
        path: The file or package.
        size: Its size, in bytes.
        operations: Operation -> number of occurrences.
        comparisons: One for each output and input size.
        runner: The engine that ran the file.
        verdict: Accuracy of an int8 file, whose outputs are not compared.
        half: Largest value of a half-precision file.
        gelu: Largest change of the outputs by an approximate GELU, relative to the largest value.
    """

    path: Path
    size: int
    operations: Counter[str]
    comparisons: tuple[Comparison, ...] = ()
    runner: str = ''
    verdict: Verdict | None = None
    half: HalfRange | None = None
    gelu: float | None = None

    def __str__(self) -> str:
        parts = [f'{self.path}: {self.size / 1e6:.1f} MB']
        if self.verdict is not None:
            parts.append(str(self.verdict))
        elif self.comparisons:
            worst = max(self.comparisons, key=lambda result: result.difference / result.bound if result.bound else 0)
            parts.append(f'{worst.output} {worst.difference:.1e} from PyTorch, at most {worst.bound:.0e} allowed '
                         f'({self.runner})')
        if self.half is not None:
            parts.append(f'largest activation {self.half.share:.1%} of 65,504 ({self.half.layer})')
        if self.gelu is not None:
            parts.append(f'GELU by tanh {self.gelu:.1e} from the exact one')
        return ', '.join(parts)
