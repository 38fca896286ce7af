"""Half precision as a GPU or NPU computes it: every map of every layer rounded, and none beyond 65,504."""
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..errors import ExportError
from .detectors import WholeDetector
from .report import HalfRange
from .tracing import traceable


class HalfPrecision(nn.Module):
    """A model whose layers compute in half precision, on any CPU.

    Weights and the result of each operation are rounded to half precision; sums within an operation use single
    precision. The selection of a whole detector's boxes stays in single precision, as in the exported files.

    Args:
        model: In single precision, in evaluation mode; not modified.

    Attributes:
        range: The largest value of all calls.

    Raises:
        ExportError: If a weight or the result of an operation is beyond half precision; names the layer.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.range, self._layers = copy.deepcopy(model).eval(), HalfRange(0., ''), []
        #: Modules around an operation of which the first does not compute layers.
        self._outer = 1 if isinstance(model, WholeDetector) else 0
        for name, module in self.model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._layers.append(name))
            module.register_forward_hook(self._leave)
            for weight in module.parameters(recurse=False):
                self._note(weight.data, name)
                weight.data = weight.data.half().float()

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the model, in single precision."""
        image, *others = inputs
        self._layers.clear()
        with traceable(), _Rounding(self):  # as in the files
            return self.model(image.half().float(), *others)

    def _leave(self, *_: Any) -> None:
        self._layers.pop()

    def round(self, value: Tensor) -> None:
        """Round a result in place."""
        if len(self._layers) > self._outer and value.dtype == torch.float32 and value.numel():
            self._note(value, self._layers[-1])
            value.copy_(value.half())

    def _note(self, value: Tensor, layer: str) -> None:
        largest = value.abs().nan_to_num(0., 0.).amax().item() if value.numel() else 0.  # a mask may be -inf
        if largest <= self.range.largest:
            return
        layer = layer.removeprefix('fused.').removeprefix('model.') or 'the model'
        self.range = HalfRange(largest, layer)
        if largest > HalfRange.LIMIT:
            raise ExportError(f'{layer} computes {largest:,.0f}, and half precision ends at {HalfRange.LIMIT:,.0f}: '
                              'a GPU or NPU would continue with infinity; export it with --precision fp32')


class _Rounding(TorchDispatchMode):
    """Round the results of operations; views of rounded values are rounded already."""

    def __init__(self, half: HalfPrecision):
        super().__init__()
        self._half = half

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        results = function(*args, **(kwargs or {}))
        aliases = [result.alias_info for result in function._schema.returns]
        if not aliases or any(alias is None or alias.is_write for alias in aliases):
            tree_map_only(Tensor, self._half.round, results)
        return results
