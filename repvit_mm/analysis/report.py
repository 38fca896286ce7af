"""Tables and plots of the tools that count and measure."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from ..inference import InferenceModel
from .benchmark import BenchmarkResult
from .complexity import Complexity
from .latency import OURS, TIMM


def complexity_table(trees: Mapping[str, Complexity], shape: Sequence[int]) -> Table:
    """The tree of a model's modules, with the figures of each form.

    Args:
        trees: Form -> tree; the modules of the first are shown, the others may lack some.
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
    """One sentence on what the multiply-adds include."""
    return f'MACs are those of convolutions and linear layers in {model.task.counted(proposals)}.'


def latency_table(result: BenchmarkResult) -> Table:
    """A row for each system."""
    request = result.request
    what = 'training step' if request.train else 'inference, fused'
    table = Table('model', 'of', 'backend', 'dtype', title=f'{what}, {request.shape[0]} x {request.shape[1]} pixels, '
                                                           f'{request.device}')
    table.columns[2].no_wrap = True
    for header in ('batch', 'median ms', 'p95 ms', 'images/s', 'peak MB', 'speed / timm'):
        table.add_column(header, justify='right')
    for system, figures in result.latencies.items():
        table.add_row(system.model, system.implementation, system.backend, system.dtype, str(system.batch_size),
                      f'{figures.median:.2f}', f'{figures.p95:.2f}', f'{figures.images_per_second:.1f}',
                      '-' if figures.memory is None else f'{figures.memory:.0f}',
                      '-' if figures.speed is None else f'{figures.speed:.2f} x',
                      style='dim' if system.implementation == TIMM else None)
    return table


def machine_line(result: BenchmarkResult) -> str:
    """Machine and versions, and the measured part of each model."""
    machine = ', '.join(f'{key} {value}' for key, value in result.machine.items())
    covers = '; '.join(f'{name}: {part}' for name, part in result.covers.items())
    return f'{machine}\nMeasured: {covers}.'


def plot_latencies(result: BenchmarkResult, path: Path) -> None:
    """Draw medians as bars, with a line up to the 95th percentile; a panel for each batch size."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    sizes = sorted({system.batch_size for system in result.latencies})
    rows = max(sum(system.batch_size == size for system in result.latencies) for size in sizes)
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(1.5 + 5.5 * len(sizes), 1.4 + 0.32 * rows), squeeze=False,
                                   layout='constrained')
    for axis, size in zip(axes[0], sizes, strict=True):
        chosen = {system: figures for system, figures in result.latencies.items() if system.batch_size == size}
        labels = [f'{s.model} {s.backend} {s.dtype}' + (' (timm)' if s.implementation == TIMM else '') for s in chosen]
        medians = [figures.median for figures in chosen.values()]
        tails = [[max(0., figures.p95 - figures.median) for figures in chosen.values()]]
        colours = ['tab:blue' if system.implementation == OURS else 'lightgrey' for system in chosen]
        bars = axis.barh(labels, medians, color=colours, xerr=[[0.] * len(medians), *tails],
                         error_kw={'ecolor': 'dimgrey', 'capsize': 2})
        axis.bar_label(bars, [f'{median:.1f}' for median in medians], label_type='center')
        axis.invert_yaxis()
        axis.set_xlabel(f'ms for {size} image' + 's' * (size > 1) + ', median and 95th percentile')
    request = result.request
    figure.suptitle(f'{"Training step" if request.train else "Inference, fused"}, {request.shape[0]} x '
                    f'{request.shape[1]} pixels, {result.machine.get("gpu", result.machine["processor"])}')
    figure.savefig(path, dpi=120, format='png')
    pyplot.close(figure)
