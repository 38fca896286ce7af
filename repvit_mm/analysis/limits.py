"""What a machine could do at most: its measured rates, and the operations and the traffic of a model's layers."""
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.inference import InferenceModel
from ..network.fusion import fuse
from .turns import Prepared, Turn, take_turns

#: Device -> side of the matrices, and elements of the vector that is copied, which no cache holds.
SIZES = {'cpu': (2048, 2 ** 25), 'cuda': (8192, 2 ** 28)}
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
#: Bytes of a number.
WIDTHS = {'fp32': 4, 'bf16': 2, 'fp16': 2, 'int8': 1}


class Layer(NamedTuple):
    """A convolution or a linear layer at work.

    Attributes:
        name: In the model.
        macs: Multiply-adds.
        numbers: That it reads and writes, each once: input, weights, output.
    """

    name: str
    macs: int
    numbers: int


class Rates(NamedTuple):
    """What the machine was measured to do.

    Attributes:
        macs: Precision -> multiply-adds per second of a product of matrices.
        bytes: Bytes per second that a copy reads and writes.
    """

    macs: Mapping[str, float]
    bytes: float

    def seconds(self, layers: Sequence[Layer], dtype: str) -> float | None:
        """The least time for layers one after the other; None without a rate for the precision.

        Each takes as long as its operations or its traffic do, whichever is longer.
        """
        if dtype not in self.macs:
            return None
        return sum(max(layer.macs / self.macs[dtype], layer.numbers * WIDTHS[dtype] / self.bytes) for layer in layers)


def layers_of(model: InferenceModel, shape: Sequence[int], batch_size: int) -> list[Layer]:
    """The convolutions and linear layers of the fused model, in the order of computation."""
    fused, layers = fuse(model).to('meta'), []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        weight = module.weight
        layers.append(Layer(names[module], output.numel() * weight[0].numel(),
                            inputs[0].numel() + weight.numel() + output.numel()))

    names = {module: name for name, module in fused.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for module in names:
        module.register_forward_hook(note)
    with torch.no_grad():
        fused(torch.empty(batch_size, model.in_channels, *shape, device='meta'))
    return layers


def measure(makers: Mapping[Any, Callable[[], Prepared]], dtypes: Sequence[str], device: str, threads: int,
            rounds: int) -> tuple[dict[Any, tuple[Any, Turn]], Rates]:
    """Measure functions, and with turns among theirs the machine's rates; see :func:`~.turns.take_turns`."""
    products = {dtype: partial(_prepare_product, dtype, device, threads) for dtype in dtypes if dtype in DTYPES}
    copy = partial(_prepare_copy, device, threads)
    results = take_turns({copy: copy, **{probe: probe for probe in products.values()}, **makers}, rounds)

    def highest(probe: Callable[[], Prepared]) -> float:  # as limits are
        amount, turn = results.pop(probe)
        return 1000 * amount / min(turn.times)

    rates = Rates({dtype: highest(probe) for dtype, probe in products.items()}, highest(copy))
    return results, rates


def _prepare_product(dtype: str, device: str, threads: int) -> Prepared:
    torch.set_num_threads(threads)
    side, kind = SIZES[device][0], DTYPES[dtype]
    left, right = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(left)
    return Prepared(finished(lambda: torch.mm(left, right, out=out), device), side ** 3)


def _prepare_copy(device: str, threads: int) -> Prepared:
    torch.set_num_threads(threads)
    source = torch.zeros(SIZES[device][1], device=device)
    out = torch.ones_like(source)
    return Prepared(finished(lambda: out.copy_(source), device), 2 * source.nbytes)


def finished(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """``call``, and on a GPU the wait for its end."""
    if device == 'cpu':
        return call

    def call_and_wait() -> None:
        call()
        torch.cuda.synchronize()
    return call_and_wait
