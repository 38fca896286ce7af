"""Training and testing in the memory format channels_last."""
import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..ops import is_provided


@HOOKS.register_module()
class ChannelsLast(Hook):
    """Keep the weights, and through them the activations, in ``torch.channels_last``.

    Results are the same up to rounding; on a CPU, and on a GPU in mixed precision, a training step takes less time.
    """

    def before_run(self, runner: Runner) -> None:
        """Change the format of the model's convolutions in place.

        A model with compiled operators of mmcv is left unchanged, with a warning: their RoIAlign, for example, reads
        every feature map as channels-first, with wrong results. Those of :mod:`repvit_mm.ops` take both formats.
        """
        for name, module in runner.model.named_modules():
            if type(module).__module__.startswith('mmcv.ops.') and not is_provided():
                print_log(f'ChannelsLast leaves the model in channels-first, which is slower: its {name} is a '
                          f'{type(module).__name__} of a compiled mmcv, which takes channels-first maps only; an mmcv '
                          "without compiled operators uses torchvision's, which take both", 'current', logging.WARNING)
                return
        runner.model.to(memory_format=torch.channels_last)
