"""Parameters and multiply-adds of a model, as a tree of its modules."""
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from ..models.inference import InferenceModel
from ..network.backbone import RepViT
from ..network.fusion import fuse


@dataclass
class Complexity:
    """Size and cost of a module.

    Attributes:
        name: Of the module in its parent.
        parameters: Number of parameters; those that two modules share count once.
        macs: Multiply-adds of convolutions and linear layers for one image. Normalisation, activations, sums,
            resizing and RoIAlign are not counted, as in the published figures.
        children: Submodules that have parameters or multiply-adds.
    """

    name: str
    parameters: int
    macs: int
    children: list['Complexity'] = field(default_factory=list)

    def as_dict(self) -> dict:
        """The tree as nested dicts, for JSON."""
        return asdict(self)


def count(model: InferenceModel, shape: Sequence[int], fused: bool = False, proposals: int | None = None,
          depth: int = 2) -> Complexity:
    """Count parameters and multiply-adds for a size of image, without computing anything.

    Of a detector, backbone, neck and dense heads are counted. RoI heads are counted if a number of proposals is given,
    the mask head for as many detections as the test settings keep.

    Args:
        model: The model; not modified.
        shape: Height and width of the image, in pixels.
        fused: Count the fused form instead of the training form.
        proposals: Number of proposals per image for a detector's RoI heads.
        depth: Levels of the tree below the model; 2 for the stages of a backbone.

    Returns:
        The root of the tree: the whole model.

    Raises:
        ConfigError: If proposals are given for a model without RoI heads.
    """
    model = copy.deepcopy(model).to('meta')
    if fused:
        fuse(model, inplace=True)
    image = torch.empty(1, model.in_channels, *shape, device='meta')
    if proposals is not None and not getattr(model.model, 'with_roi_head', False):
        raise ConfigError(f'{model.name} has no RoI heads: leave out the number of proposals')
    macs: Counter[nn.Module] = Counter()
    with torch.no_grad(), _counting(model, macs):
        model.task.run_heads(model.model, model(image), proposals)
    tree = _tree(model.name, model, macs, depth + 1)
    (inside,) = tree.children  # the wrapper around the model
    if isinstance(model.model, RepViT):
        inside.name = 'backbone'
        return tree
    return Complexity(model.name, inside.parameters, inside.macs, inside.children)


class _counting:
    """Add the multiply-adds of every call of every module in ``model`` to ``macs``."""

    def __init__(self, model: nn.Module, macs: Counter[nn.Module]):
        self.model, self.macs = model, macs
        self.flops = FlopCounterMode(display=False)

    def _enter_module(self, module: nn.Module, _: tuple) -> None:
        self.macs[module] -= self.flops.get_total_flops() // 2

    def _leave_module(self, module: nn.Module, *_: object) -> None:
        self.macs[module] += self.flops.get_total_flops() // 2

    def __enter__(self) -> None:
        modules = list(self.model.modules())
        self.hooks = [module.register_forward_pre_hook(self._enter_module) for module in modules]
        self.hooks += [module.register_forward_hook(self._leave_module) for module in modules]
        self.flops.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.flops.__exit__(*exception)
        for hook in self.hooks:
            hook.remove()


def _tree(name: str, module: nn.Module, macs: Counter[nn.Module], depth: int) -> Complexity:
    children = [_tree(child_name, child, macs, depth - 1) for child_name, child in _named_children(module)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # A detector's parts are called one by one: it has no forward call of its own to count.
    total = macs[module] if module in macs else sum(child.macs for child in children)
    return Complexity(name, parameters, total, [c for c in children if c.parameters or c.macs] if depth > 0 else [])


def _named_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children; a ModuleList is replaced by its items."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f'{name}.{i}', part) for i, part in enumerate(child))
        else:
            yield name, child
