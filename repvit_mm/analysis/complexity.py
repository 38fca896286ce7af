"""Parameters and multiply-adds of a model, as a tree of its modules."""
import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.folding import fuse_model
from ..models.inference import InferenceModel
from ..network.backbone import RepViT


@dataclass
class Complexity:
    """Size and cost of a module.

    Attributes:
        name: Name of the module in its parent.
        parameters: Number of parameters. Shared parameters count once.
        macs: Multiply-adds of convolutions and linear layers for one image. As in the published figures,
            normalisation, activations, sums, resizing and RoIAlign are not counted.
        children: Submodules with parameters or multiply-adds.
    """

    name: str
    parameters: int
    macs: int
    children: list['Complexity'] = field(default_factory=list)


def count(model: InferenceModel, shape: Sequence[int], fused: bool = False, depth: int = 2) -> Complexity:
    """Count parameters and multiply-adds for an image size, without computing anything.

    Of a detector, backbone, neck and dense heads are counted, not the RoI heads.

    Args:
        model: The model; not modified.
        shape: Height and width of the image, in pixels.
        fused: Count the fused form instead of the training form.
        depth: Levels of the tree below the model; 2 for the stages of a backbone.

    Returns:
        The root of the tree: the whole model.
    """
    model = (fuse_model(model, shape) if fused else copy.deepcopy(model)).to('meta')
    # mmengine.analysis also counts normalisation and resizing, and needs torch's deprecated tracer.
    flops, macs = FlopCounterMode(display=False), Counter()

    def enter(module: nn.Module, *_: object) -> None:
        macs[module] -= flops.get_total_flops() // 2

    def leave(module: nn.Module, *_: object) -> None:
        macs[module] += flops.get_total_flops() // 2

    for module in model.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    with torch.no_grad(), flops:
        image = torch.empty(1, model.in_channels, *shape, device='meta')
        model.task.run_heads(model.model, model(image))
    (tree,) = _tree(model.name, model, macs, depth + 1).children
    if isinstance(model.model, RepViT):
        tree.name = 'backbone'
        return Complexity(model.name, tree.parameters, tree.macs, [tree])
    tree.name = model.name
    return tree


def _tree(name: str, module: nn.Module, macs: Counter[nn.Module], depth: int) -> Complexity:
    children = [_tree(child_name, child, macs, depth - 1) for child_name, child in _named_children(module)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # A detector's parts are called one by one, so its own forward method is not.
    total = macs[module] if module in macs else sum(child.macs for child in children)
    return Complexity(name, parameters, total, [c for c in children if c.parameters or c.macs] if depth > 0 else [])


def _named_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children, with the items of a ModuleList instead of the list."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f'{name}.{i}', part) for i, part in enumerate(child))
        else:
            yield name, child


def complexity_table(trees: Mapping[str, Complexity], shape: Sequence[int]) -> Table:
    """The tree of a model's modules, with the figures of each form.

    Args:
        trees: Form -> tree. The modules of the first are shown; the others may lack some.
        shape: Height and width of the image, in pixels.
    """
    table = Table('module', title=f'One image of {shape[0]} x {shape[1]} pixels')
    for form in trees:
        table.add_column(f'parameters,\n{form}', justify='right')
        table.add_column(f'MACs,\n{form}', justify='right')
    _add_rows(table, list(trees.values()), 0)
    return table


def _add_rows(table: Table, nodes: Sequence[Complexity | None], depth: int) -> None:
    cells = [text for node in nodes
             for text in (('', '') if node is None else (f'{node.parameters:,}', f'{node.macs / 1e9:.3f} G'))]
    table.add_row('  ' * depth + nodes[0].name, *cells, style='bold' if depth == 0 else None)
    for child in nodes[0].children:
        others = ({} if node is None else {other.name: other for other in node.children} for node in nodes[1:])
        _add_rows(table, [child, *(other.get(child.name) for other in others)], depth + 1)
