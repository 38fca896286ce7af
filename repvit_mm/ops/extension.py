"""What ``mmcv._ext`` has, on the operators of torchvision, for CPU and CUDA.

The names and arguments are those that ``mmcv.ops`` calls. Results are written into the tensors that it passes.
"""
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor

__all__ = ['get_compiler_version', 'get_compiling_cuda_version', 'nms', 'roi_align_backward', 'roi_align_forward']


def get_compiler_version() -> str:
    """Say that nothing was compiled."""
    return f'not compiled; torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """CUDA's version that torchvision's operators were compiled for."""
    return torch.version.cuda or 'not available'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, by falling score."""
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    """Average of each bin of each region, into ``output``."""
    output.copy_(torch.ops.torchvision.roi_align(
        input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Gradient of the maps, into ``grad_input``."""
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad_output, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned))


def __getattr__(name: str) -> Callable[..., Any]:
    """An operator that is not here: it can be imported, and says so when it is called."""
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f'mmcv.ops needs the operator {name} of mmcv._ext, which torchvision does not have; '
                                  'it takes a compiled mmcv, see docs/install.md')

    return missing
