"""Tables of the tools that count and measure."""
from collections.abc import Mapping, Sequence

from rich.table import Table

from .benchmark import BenchmarkResult
from .complexity import Complexity
from .systems import TIMM


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


def latency_table(result: BenchmarkResult) -> Table:
    """A row for each system."""
    request = result.request
    what = ('Training step' + ' on frozen statistics' * request.frozen_statistics if request.train else
            'Inference, fused')
    table = Table('model', 'of', 'backend', 'dtype',
                  title=f'{what}, {request.shape[0]} x {request.shape[1]} pixels, {request.device}')
    table.columns[2].no_wrap = True
    for header in ('batch', 'median ms', 'quartiles', 'images/s', 'kept MB' if request.train else 'difference',
                   'speed / timm'):
        table.add_column(header, justify='right')
    for system, figures in result.latencies.items():
        special = _cell(figures.activations, '.0f') if request.train else _cell(figures.difference, '.0e')
        table.add_row(system.model, system.implementation, system.backend, system.dtype, str(system.batch_size),
                      f'{figures.median:.2f}', f'{figures.low:.2f}-{figures.high:.2f}',
                      f'{figures.images_per_second:.1f}', special,
                      _cell(figures.speed, '.2f'), style='dim' if system.implementation == TIMM else None)
    return table


def _cell(value: float | None, form: str) -> str:
    return '-' if value is None else f'{value:{form}}'
