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

    The same numbers up to rounding; on a CPU, and on a GPU in mixed precision, a step takes less time.
    """

    def before_run(self, runner: Runner) -> None:
        """Change the format of the model's convolutions in place.

        A model with compiled operators of mmcv stays as it is, and a warning says so: their RoIAlign, for one, takes
        every map for channels-first and computes nonsense. Those of :mod:`repvit_mm.ops` take both formats.
        """
        for name, module in runner.model.named_modules():
            if type(module).__module__.startswith('mmcv.ops.') and not is_provided():
                print_log(f'ChannelsLast leaves the model in channels-first, which takes longer: its {name} is a '
                          f'{type(module).__name__} of a compiled mmcv, which reads channels-first maps only; mmcv '
                          'without compiled operators uses those of torchvision, which do', 'current', logging.WARNING)
                return
        runner.model.to(memory_format=torch.channels_last)
