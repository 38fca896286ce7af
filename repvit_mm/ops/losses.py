"""Focal loss of N predictions of C classes, forward and backward in closed form."""
import torch
import torch.nn.functional as F
from torch import Tensor

from repvit_mm.ops.common import wide


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Loss of each logit (N, C), into ``output``; a target of C is the background."""
    sign, scale, logits = _signed(input, target, weight, alpha)
    output.copy_(-scale * torch.sigmoid(-logits) ** gamma * F.logsigmoid(logits))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Its derivative, into ``grad_input``."""
    sign, scale, logits = _signed(input, target, weight, alpha)
    missing = torch.sigmoid(-logits)
    slope = missing - gamma * torch.sigmoid(logits) * F.logsigmoid(logits)
    grad_input.copy_(-sign * scale * missing ** gamma * slope)


def _signed(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each logit: 1 for the target's class and -1 for others, its factor, and the logit times that sign."""
    input, weight = wide(input, weight)
    positive = target[:, None] == torch.arange(input.shape[1], device=target.device)
    sign = torch.ones_like(input).masked_fill_(~positive, -1)
    scale = torch.full_like(input, 1 - alpha).masked_fill_(positive, alpha)
    if weight.numel():
        scale = scale * F.pad(weight, (0, 1), value=1.)[target][:, None]
    return sign, scale, input * sign
