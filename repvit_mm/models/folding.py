"""Fusion of models with any backbone: pairs of convolution and BatchNorm are found by running the model."""
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..network.fusion import fuse
from .inference import InferenceModel

#: Largest change of an output, relative to its largest value.
BOUND = 1e-4


def fuse_model(model: InferenceModel, shape: Sequence[int] = (64, 64)) -> InferenceModel:
    """A fused copy: RepViT and mmcv's ConvModules by :func:`repvit_mm.fuse`, and in other modules every BatchNorm that
    is the only reader of a convolution.

    If the outputs change by more than rounding, those of other modules are left as they are.

    Args:
        model: In evaluation mode.
        shape: Height and width of an image that the model takes.
    """
    fused = fuse(model)
    if not any(isinstance(module, _BatchNorm) for module in fused.modules()):
        return fused
    folded = fuse(model)
    image = torch.randn(1, model.in_channels, *shape, generator=torch.Generator().manual_seed(0))
    fold_pairs(folded, image)
    with torch.no_grad():
        change = relative_difference(folded(image), fused(image))
    return folded if change <= BOUND else fused


def relative_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference of tensors, relative to the largest value of each; NaN if one holds NaN."""
    return torch.stack([(ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)
                        for ours, theirs in zip(found, expected, strict=True)]).max().item()


def fold_pairs(model: nn.Module, *inputs: Tensor) -> int:
    """Fold BatchNorms into convolutions in place, where the forward pass shows that nothing else reads their outputs.

    Args:
        model: In evaluation mode.
        inputs: Of the model.

    Returns:
        The number of folded pairs.
    """
    reads, outputs = _Reads(), {}
    normed: dict[nn.Conv2d, set[_BatchNorm]] = defaultdict(set)
    sources: dict[_BatchNorm, set[nn.Module | None]] = defaultdict(set)
    certain: dict[nn.Conv2d, list[Tensor]] = defaultdict(list)

    def after_conv(conv: nn.Conv2d, _: Any, output: Tensor) -> None:
        outputs[id(output)] = conv
        certain[conv].append(output)  # kept alive, so that its id stays its own
        reads.counts[id(output)] = 0

    def before_norm(norm: _BatchNorm, given: tuple[Tensor, ...]) -> None:
        conv = outputs.get(id(given[0]))
        sources[norm].add(conv)
        if conv is not None:
            normed[conv].add(norm)

    hooks = [module.register_forward_hook(after_conv) for module in model.modules() if type(module) is nn.Conv2d]
    hooks += [module.register_forward_pre_hook(before_norm) for module in model.modules()
              if isinstance(module, _BatchNorm) and not module.training and module.running_var is not None]
    try:
        with torch.no_grad(), reads:
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    replaced: dict[nn.Module, nn.Module] = {}
    for conv, norms in normed.items():
        if len(norms) == 1 and sources[norm := next(iter(norms))] == {conv} and all(
                reads.counts[id(output)] == 1 for output in certain[conv]):
            replaced[conv], replaced[norm] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    for module in list(model.modules()):
        for name, child in module._modules.items():
            module._modules[name] = replaced.get(child, child)
    return len(replaced) // 2


class _Reads(TorchDispatchMode):
    """Counts the operations that read each of some tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and id(value) in self.counts:
                self.counts[id(value)] += 1
        return function(*args, **(kwargs or {}))
