"""Training and testing with the channels of a pixel next to each other."""
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLast(Hook):
    """Keep the weights, and through them the activations, in ``torch.channels_last``.

    The same numbers up to rounding; on a CPU, and on a GPU in mixed precision, a step takes less time.
    """

    def before_run(self, runner: Runner) -> None:
        """Change the format of the model's convolutions in place."""
        runner.model.to(memory_format=torch.channels_last)
