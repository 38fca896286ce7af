"""A replacement for ``mmcv._ext`` on the operators of torchvision and torch, for CPU and CUDA.

The names and arguments are those that ``mmcv.ops`` calls; results are written into the tensors that it passes. This
file is imported under the name ``mmcv._ext``, so that relative imports would look in mmcv.
"""
import sys
from collections.abc import Callable
from typing import Any

import torch
import torchvision

from repvit_mm.errors import UserError
from repvit_mm.ops import boxes, losses, maps, regions, rotated, sampling

if __name__ == 'mmcv._ext':  # found: the finder need not see every later import
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, '__module__', '') != 'repvit_mm.ops']


def get_compiler_version() -> str:
    """Where the operators come from."""
    return f'none: operators of torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """The CUDA that torchvision's operators were compiled for, in mmcv's notation."""
    version = torch.ops.torchvision._cuda_version()
    return 'not available' if version <= 0 else f'{version // 1000}.{version % 1000 // 10}'


def __getattr__(name: str) -> Callable[..., Any]:
    """An operator. A missing one raises its error when it is called, so that ``mmcv.ops`` can be imported."""
    if name.startswith('__'):
        raise AttributeError(name)
    for module in (boxes, losses, maps, regions, rotated, sampling):
        if name in vars(module):
            return vars(module)[name]

    def missing(*args: Any, **kwargs: Any) -> None:
        raise UserError(f'torchvision has no operator {name}: install a compiled mmcv to use it, see docs/install.md')

    return missing
