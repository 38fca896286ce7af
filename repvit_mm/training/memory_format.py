"""Training and testing in the memory format channels_last."""
import logging

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..ops import is_provided


@HOOKS.register_module()
class ChannelsLast(Hook):
    """Keep the weights, and through them the activations, in ``torch.channels_last``.

    Results are the same up to rounding; on a CPU, and on a GPU in mixed precision, a training step takes less time.

    Args:
        on_gpu: Whether on a GPU, too; in single precision, depthwise convolutions can be slower there.
    """

    def __init__(self, on_gpu: bool = True):
        self.on_gpu = on_gpu

    def before_run(self, runner: Runner) -> None:
        """Change the format of the model's convolutions in place.

        A model with compiled operators of mmcv is left unchanged, with a warning: their RoIAlign, for example, reads
        every feature map as channels-first, with wrong results. Those of :mod:`repvit_mm.ops` take both formats.
        """
        operator = self.change_format(runner.model)
        if operator:
            print_log(f'ChannelsLast leaves the model in channels-first, which is slower: its {operator} of a compiled '
                      'mmcv, which takes channels-first maps only; an mmcv without compiled operators uses '
                      "torchvision's, which take both", 'current', logging.WARNING)

    def change_format(self, model: nn.Module) -> str | None:
        """Change the format, unless an operator or the device forbids it.

        A distributed model wants it before it is wrapped: gradients are exchanged in the format that weights have then.

        Returns:
            The operator.
        """
        if not self.on_gpu and get_device() != 'cpu':
            return None
        for name, module in model.named_modules():
            if type(module).__module__.startswith('mmcv.ops.') and not is_provided():
                return f'{name} is a {type(module).__name__}'
        model.to(memory_format=torch.channels_last)
        return None
