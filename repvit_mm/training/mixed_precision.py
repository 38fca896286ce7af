"""Automatic mixed precision on every device; mmengine's wrapper of optimisers refuses a CPU."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import autocast
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """mmengine's wrapper of an optimiser in bfloat16, whose range is float32's: no loss has to be scaled."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run what computes the losses in mixed precision."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
