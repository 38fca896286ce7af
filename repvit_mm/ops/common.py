"""Helpers of the operators."""
from collections.abc import Callable

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors, with half precision converted to float32: all operators compute in float32 or float64."""
    return [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor], grad_output: Tensor) -> tuple[Tensor, ...]:
    """The gradients of ``function(*tensors)`` for each of the tensors, given that of its result."""
    with torch.enable_grad():
        tensors = [x.detach().requires_grad_() for x in tensors]
        return torch.autograd.grad(function(*tensors), tensors, grad_output)
