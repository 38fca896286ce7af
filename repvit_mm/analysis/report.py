"""What the tools that count and measure print."""
from collections.abc import Mapping, Sequence

from rich.table import Table

from ..inference import InferenceModel
from .complexity import Complexity


def complexity_table(trees: Mapping[str, Complexity], shape: Sequence[int]) -> Table:
    """The tree of a model, with the figures of each of its forms beside it.

    Args:
        trees: Form -> tree; the first one's modules are shown, which the others may have fewer of.
        shape: Height and width of the image, in pixels.
    """
    table = Table('module', title=f'One image of {shape[0]} x {shape[1]} pixels')
    for form in trees:
        table.add_column(f'parameters,\n{form}', justify='right')
        table.add_column(f'MACs,\n{form}', justify='right')
    _add_rows(table, list(trees.values()), 0)
    return table


def _add_rows(table: Table, nodes: Sequence[Complexity | None], depth: int) -> None:
    first = nodes[0]
    cells = [text for node in nodes
             for text in (('', '') if node is None else (f'{node.parameters:,}', _giga(node.macs)))]
    table.add_row('  ' * depth + first.name, *cells, style='bold' if depth == 0 else None)
    for child in first.children:
        others = ({} if node is None else {other.name: other for other in node.children} for node in nodes[1:])
        _add_rows(table, [child, *(other.get(child.name) for other in others)], depth + 1)


def _giga(macs: int) -> str:
    return f'{macs / 1e9:.3f} G'


def what_is_counted(model: InferenceModel, proposals: int | None) -> str:
    """One sentence on the part of the model that the multiply-adds are for."""
    if model.task.name != 'detection':
        return f'MACs are those of convolutions and linear layers in {model.task.covers}.'
    roi = (f'RoI heads with {proposals} proposals' if proposals is not None
           else 'not the RoI heads, whose cost depends on the number of proposals (--proposals)')
    return f'MACs are those of convolutions and linear layers in backbone, neck and dense heads, and {roi}.'
