"""A replacement for ``mmcv._ext`` on the operators of torchvision and torch, for CPU and CUDA.

The names and arguments are those that ``mmcv.ops`` calls; results are written into the tensors that it passes. This
file is imported under the name ``mmcv._ext``, so that relative imports would look in mmcv.
"""
from collections.abc import Callable
from typing import Any

import torch
import torchvision

from repvit_mm.errors import UserError
from repvit_mm.ops import boxes, losses, maps, regions, rotated, sampling
from repvit_mm.ops.boxes import *  # noqa: F403
from repvit_mm.ops.losses import *  # noqa: F403
from repvit_mm.ops.maps import *  # noqa: F403
from repvit_mm.ops.regions import *  # noqa: F403
from repvit_mm.ops.rotated import *  # noqa: F403
from repvit_mm.ops.sampling import *  # noqa: F403

#: The operators, as functions.
__all__ = sorted(name for room in (boxes, losses, maps, regions, rotated, sampling) for name in room.__all__)


def get_compiler_version() -> str:
    """Where the operators come from."""
    return f'none: operators of torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """The CUDA that torchvision's operators were compiled for, in mmcv's notation."""
    version = torch.ops.torchvision._cuda_version()
    return 'not available' if version <= 0 else f'{version // 1000}.{version % 1000 // 10}'


def __getattr__(name: str) -> Callable[..., Any]:
    """A missing operator: ``mmcv.ops`` can be imported all the same, and calling the operator raises the error."""
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> None:
        raise UserError(f'torchvision has no operator {name}: install a compiled mmcv to use it, see docs/install.md')

    return missing
