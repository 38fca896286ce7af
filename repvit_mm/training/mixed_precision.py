"""Automatic mixed precision on every device; mmengine's AMP optimiser wrapper refuses a CPU."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import autocast
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """An optimiser wrapper for bfloat16, which has the range of float32: the loss is not scaled."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the losses in mixed precision."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
