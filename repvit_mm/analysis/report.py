"""Tables and plots of the tools that count and measure."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..models.inference import InferenceModel
from .benchmark import EXACT, BenchmarkResult
from .by_layer import LayerTask, Part
from .complexity import Complexity
from .latency import OURS, TIMM, System
from .limits import Rates


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
    table = Table('model', 'of', 'backend', 'dtype', title=f'{_what(result)}, {request.shape[0]} x {request.shape[1]} '
                                                           f'pixels, {request.device}')
    table.columns[2].no_wrap = True
    for header in ('batch', 'median ms', 'quartiles', 'images/s', 'peak MB',
                   'kept MB' if request.train else 'difference', 'of limit', 'speed / timm'):
        table.add_column(header, justify='right')
    for system, figures in result.latencies.items():
        special = (_cell(figures.activations, '.0f') if request.train else _cell(figures.difference, '.0e'))
        table.add_row(system.model, system.implementation, system.backend, system.dtype, str(system.batch_size),
                      f'{figures.median:.2f}', f'{figures.low:.2f}-{figures.high:.2f}',
                      f'{figures.images_per_second:.1f}', _cell(figures.memory, '.0f'), special,
                      _cell(figures.limit, '.0%'), _cell(figures.speed, '.2f', ' x'),
                      style='dim' if system.implementation == TIMM else None)
    return table


def _what(result: BenchmarkResult) -> str:
    if not result.request.train:
        return 'Inference, fused'
    return 'Training step' + ' on frozen statistics' * result.request.frozen_statistics


def _cell(value: float | None, form: str, unit: str = '') -> str:
    return '-' if value is None else f'{value:{form}}{unit}'


def machine_lines(machine: Mapping[str, Any], rates: Rates, covers: Mapping[str, str] = {}) -> list[str]:
    """Machine and versions, its rates, and the measured part of each model."""
    products = ', '.join(f'{rate / 1e9:.0f} GMAC/s in {dtype}' for dtype, rate in rates.macs.items())
    lines = [', '.join(f'{key} {value}' for key, value in machine.items()),
             f'Limit: products of matrices {products}; copies {rates.bytes / 1e9:.1f} GB/s.']
    return lines + [f'Measured: {"; ".join(f"{name}: {part}" for name, part in covers.items())}.'] * bool(covers)


def recommendations(result: BenchmarkResult) -> list[str]:
    """For each model and batch size, the fastest system that is exact, and the fastest that may differ a little."""
    lines = []
    for model, size in dict.fromkeys((system.model, system.batch_size) for system in result.latencies):
        exact, close = (result.recommended(model, size, bound) for bound in (EXACT, result.request.within))
        parts = [f'exact (within {EXACT:g}) {_recommended(result, exact)}'] if exact else []
        if close and close != exact:
            parts.append(f'within {result.request.within:g} {_recommended(result, close)}')
        if parts:
            lines.append(f'Fastest for {model}, batch {size}: {"; ".join(parts)}.')
    return lines


def _recommended(result: BenchmarkResult, system: System) -> str:
    figures = result.latencies[system]
    speed = '' if figures.speed is None else f', {figures.speed:.1f} times as fast as timm'
    return f'{system.backend} in {system.dtype}, {figures.median:.1f} ms{speed}'


def layer_table(task: LayerTask, parts: Sequence[Part]) -> Table:
    """A row for each stage, a column for each kind of layer, in milliseconds; then the shares of the whole."""
    kinds = list(dict.fromkeys(part.kind for part in parts))
    stages = list(dict.fromkeys(_stage(part) for part in parts))
    table = Table('', *kinds, 'all', title=_layers_title(task))
    for column in table.columns[1:]:
        column.justify = 'right'
    for stage in stages:
        cells = [sum(part.median for part in parts if (_stage(part), part.kind) == (stage, kind)) for kind in kinds]
        table.add_row(stage, *(_cell(ms or None, '.2f') for ms in cells), f'{sum(cells):.2f}')
    of_kinds = [[part for part in parts if part.kind == kind] for kind in kinds]
    table.add_section()
    table.add_row('all', *(f'{sum(part.median for part in chosen):.2f}' for chosen in (*of_kinds, parts)))
    table.add_row('share', *(f'{sum(part.share for part in chosen):.0%}' for chosen in (*of_kinds, parts)))
    table.add_row('MACs', *(_giga(sum(part.macs for part in chosen)) for chosen in (*of_kinds, parts)))
    table.add_row('of limit', *(_cell(_limit(chosen), '.0%') for chosen in (*of_kinds, parts)))
    return table


def _stage(part: Part) -> str:
    return part.block.partition('.')[0]


def _layers_title(task: LayerTask) -> str:
    layout = 'channels_last' if task.channels_last else 'channels-first'
    return (f'{task.source}, fused, batch {task.batch_size}, {task.shape[0]} x {task.shape[1]} pixels, {layout}, '
            f'{task.dtype}, {task.device}, ms')


def _limit(parts: Sequence[Part]) -> float | None:
    least = sum(part.limit * part.median for part in parts if part.limit is not None)
    return least / sum(part.median for part in parts) if least else None


def plot_layers(task: LayerTask, parts: Sequence[Part], path: Path) -> None:
    """Draw a bar for each block, of the kinds of its layers."""
    from matplotlib.figure import Figure
    blocks = list(dict.fromkeys(part.block for part in parts))
    figure = Figure(figsize=(9, 1.5 + 0.2 * len(blocks)), layout='constrained')
    axis = figure.subplots()
    left = dict.fromkeys(blocks, 0.)
    for kind in dict.fromkeys(part.kind for part in parts):
        chosen = [part for part in parts if part.kind == kind]
        axis.barh([part.block for part in chosen], [part.median for part in chosen],
                  left=[left[part.block] for part in chosen],
                  label=f'{kind}, {sum(part.share for part in chosen):.0%}')
        for part in chosen:
            left[part.block] += part.median
    axis.set_yticks(range(len(blocks)), blocks, fontsize='small')
    axis.invert_yaxis()
    axis.set_xlabel('ms')
    axis.legend()
    figure.suptitle(_layers_title(task))
    figure.savefig(path, dpi=120, format='png')


def plot_latencies(result: BenchmarkResult, path: Path) -> None:
    """Draw medians as bars, with a line between the quartiles; a panel for each batch size."""
    from matplotlib.figure import Figure
    sizes = sorted({system.batch_size for system in result.latencies})
    rows = max(sum(system.batch_size == size for system in result.latencies) for size in sizes)
    figure = Figure(figsize=(1.5 + 5.5 * len(sizes), 1.4 + 0.32 * rows), layout='constrained')
    for axis, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        chosen = {system: figures for system, figures in result.latencies.items() if system.batch_size == size}
        labels = [f'{s.model} {s.backend} {s.dtype}' + (' (timm)' if s.implementation == TIMM else '') for s in chosen]
        medians = [figures.median for figures in chosen.values()]
        spread = [[figures.median - figures.low for figures in chosen.values()],
                  [figures.high - figures.median for figures in chosen.values()]]
        colours = ['tab:blue' if system.implementation == OURS else 'lightgrey' for system in chosen]
        bars = axis.barh(labels, medians, color=colours, xerr=spread,
                         error_kw={'ecolor': 'dimgrey', 'capsize': 2})
        axis.bar_label(bars, [f'{median:.1f}' for median in medians], label_type='center')
        axis.invert_yaxis()
        axis.set_xlabel(f'ms for {size} image' + 's' * (size > 1) + ', median and quartiles')
    request = result.request
    figure.suptitle(f'{_what(result)}, {request.shape[0]} x '
                    f'{request.shape[1]} pixels, {result.machine.get("gpu", result.machine["processor"])}')
    figure.savefig(path, dpi=120, format='png')
