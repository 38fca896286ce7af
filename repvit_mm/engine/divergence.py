"""Stops runs that diverged, before they replace good weights."""
import math

import mmengine.runner
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ..checkpoints import invalid_tensors
from ..errors import UserError
from .preparing import latest_checkpoint


@HOOKS.register_module()
class StopOnInvalidLossHook(Hook):
    """Ends a training whose loss or weights are no longer finite; such weights are not saved.

    The Runner adds it to every training. The loss is read in each iteration, as mmengine does for its log; the weights
    when they are saved.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: mmengine.runner.Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Look at the loss.

        Raises:
            UserError: If it is infinite or not a number.
        """
        outputs = outputs or {}
        loss = _number(outputs.get('loss', 0.))
        if math.isfinite(loss):
            return
        parts = [name for name, value in outputs.items()
                 if 'loss' in name and name != 'loss' and not math.isfinite(_number(value))]
        where = f' ({", ".join(parts)})' if parts else ''
        self._stop(runner, f'the loss{where} is {loss}', runner.iter + 1)

    def before_save_checkpoint(self, runner: mmengine.runner.Runner, checkpoint: dict) -> None:
        """Look at the weights.

        Raises:
            UserError: If any of them is infinite or not a number.
        """
        weights = checkpoint['state_dict']
        if bad := invalid_tensors(weights):
            self._stop(runner, f'{len(bad)} of {len(weights)} tensors of the model hold values that are infinite or '
                       f'not a number, first {bad[0]}, and are not saved', checkpoint['meta']['iter'])

    @staticmethod
    def _stop(runner: mmengine.runner.Runner, what: str, iteration: int) -> None:
        latest = latest_checkpoint(runner.work_dir)
        kept = f'the last good checkpoint is {latest}' if latest else 'no checkpoint had been saved yet'
        raise UserError(f'training diverged and stops: after iteration {iteration} {what}; {kept}; lower the learning '
                        'rate (optim_wrapper.optimizer.lr) or clip the gradients (optim_wrapper.clip_grad)')


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value
