"""Hooks: averaged weights beside the raw ones, and the memory format channels_last."""
import copy
import logging
from collections.abc import Iterator

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn

from ..checkpoints import unwrapped
from ..errors import ConfigError
from ..ops import is_provided


@HOOKS.register_module()
class ModelEmaHook(Hook):
    """Exponential moving average of weights and statistics, from the first training step on.

    Training, ``state_dict`` in checkpoints and the metrics under their usual names use the raw weights,
    whose accuracy is the published one. The average is saved as ``ema_state_dict`` and its metrics are
    reported as ``ema/...``. (mmengine's and mmpretrain's EMAHook save them the other way round, and start
    from the weights after the first training step.)

    Args:
        decay: Weight of the former average in each step.
    """

    def __init__(self, decay: float = 0.99996):
        if not 0 < decay < 1:
            raise ConfigError(f'ModelEmaHook: decay={decay} must be between 0 and 1')
        self.decay = decay
        self.average: nn.Module | None = None
        self._loaded: dict[str, Tensor] | None = None
        self._metrics: dict[str, float] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the average that the checkpoint holds, for a resumed training or a test."""
        self._loaded = checkpoint.get('ema_state_dict')

    def before_train(self, runner: Runner) -> None:
        """Start the average at the initial weights, or resume it from the checkpoint."""
        self.average = self._make_average(runner)
        if runner._resume and self._loaded is not None:
            self.average.load_state_dict(self._loaded)
        elif runner._resume:
            print_log('The checkpoint has no averaged weights: averaging starts again', 'current')
        self._loaded = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Update the average with the new weights."""
        self.update(unwrapped(runner.model))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One step of the average towards ``model``."""
        pairs = list(_pairs(self.average, model))
        for averaged, value in pairs:
            if not averaged.dtype.is_floating_point:
                averaged.copy_(value)
        floats = zip(*(pair for pair in pairs if pair[0].dtype.is_floating_point), strict=True)
        torch._foreach_lerp_(*floats, 1 - self.decay)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the average into the checkpoint."""
        if self.average is not None:
            checkpoint['ema_state_dict'] = self.average.state_dict()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report the average's metrics beside those of the raw weights."""
        if self.average is not None:
            for name, value in self._evaluate(runner, runner.val_loop).items():
                runner.message_hub.update_scalar(f'val/{name}', value)

    def before_test_epoch(self, runner: Runner) -> None:
        """Evaluate the average first: files that a metric writes are then those of the raw weights in the end."""
        self._metrics = {}
        if self._loaded is None:
            return
        self.average = self._make_average(runner)
        try:
            self.average.load_state_dict(self._loaded)
        except RuntimeError:
            print_log('The averaged weights of the checkpoint do not fit this model and are not evaluated', 'current')
            return
        self._metrics = self._evaluate(runner, runner.test_loop)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the average's metrics to those of the raw weights."""
        if metrics is not None:
            metrics.update(self._metrics)

    @staticmethod
    def _make_average(runner: Runner) -> nn.Module:
        return copy.deepcopy(unwrapped(runner.model)).eval().requires_grad_(False)

    def _evaluate(self, runner: Runner, loop: BaseLoop) -> dict[str, float]:
        model = unwrapped(runner.model).eval()
        print_log('Evaluating the averaged weights', 'current')
        _swap(self.average, model)
        try:
            for index, batch in enumerate(loop.dataloader):
                loop.run_iter(index, batch)
            metrics = loop.evaluator.evaluate(len(loop.dataloader.dataset))
        finally:
            _swap(self.average, model)
        return {f'ema/{name}': value for name, value in metrics.items()}


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


def _pairs(first: nn.Module, second: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    values = second.state_dict()
    return ((value, values[name]) for name, value in first.state_dict().items())


@torch.no_grad()
def _swap(first: nn.Module, second: nn.Module) -> None:
    for one, other in _pairs(first, second):
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
