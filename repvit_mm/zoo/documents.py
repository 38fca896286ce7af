"""The generated tables and the plot of the documentation, and the report of a reproduction."""
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import atomic_write
from .reproduction import Figure
from .rows import TABLES, Row

#: Generates the tables of the documents, each between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
COMMAND = 'python tools/reproduce_tables.py --write-docs'
DOCUMENTS = ('README.md', 'docs/zoo.md')
#: Metrics with a column in the documents; the metafiles have the others, too.
SHOWN = ('Top 1 Accuracy', 'box AP', 'mask AP', 'mIoU')
_MARKED = re.compile(r'<!-- (\w+): begin -->\n.*?<!-- \1: end -->', re.DOTALL)


def documents(rows: Sequence[Row], root: Path) -> dict[Path, str]:
    """The documents of a checkout with up-to-date tables.

    Args:
        rows: All rows.
        root: Root of the checkout.

    Returns:
        File -> content.

    Raises:
        UserError: If a document is missing, or has no table to fill.
    """
    tables: dict[str, Callable[[], str]] = {'zoo': lambda: short_table(rows)}
    for name in TABLES:
        chosen = [row for row in rows if row.table == name]
        tables[name] = lambda chosen=chosen: full_table(chosen)
    contents = {}
    for path in (root / name for name in DOCUMENTS):
        text = path.read_text() if path.is_file() else ''
        if not any(mark[1] in tables for mark in _MARKED.finditer(text)):
            raise UserError(f'{path} must exist, with lines <!-- NAME: begin --> and <!-- NAME: end -->; NAME is one '
                            f'of {", ".join(tables)}')
        contents[path] = _MARKED.sub(
            lambda mark: f'<!-- {mark[1]}: begin -->\n\n{tables[mark[1]]()}\n\n<!-- {mark[1]}: end -->'
            if mark[1] in tables else mark[0], text)
    return contents


def write_documents(rows: Sequence[Row], root: Path) -> list[Path]:
    """Write the documents and the plot; returns the files."""
    contents = documents(rows, root)
    for path, content in contents.items():
        with atomic_write(path) as part:
            part.write_text(content)
    plot = root / 'docs' / 'images' / 'accuracy.png'
    with atomic_write(plot) as part:
        draw_family(rows, part)
    return [*contents, plot]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """A table in Markdown; columns from index ``right`` on are right-aligned."""
    rule = ['---' if number < right else '---:' for number in range(len(header))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, rule, *rows))


def short_table(rows: Sequence[Row]) -> str:
    """The README's table: a line for each architecture of the paper, with a teacher where it classifies."""
    lines = []
    for arch in dict.fromkeys(row.arch for row in rows if '_' in row.arch and row.table == 'imagenet'):
        found = [row for row in rows if row.arch == arch and (row.distilled or row.table != 'imagenet')]
        figures = {(row.table, row.epochs if row.table == 'imagenet' else None, result.name): f'{result.value:.1f}'
                   for row in found for result in row.results}
        shown = (('imagenet', 300, 'Top 1 Accuracy'), ('imagenet', 450, 'Top 1 Accuracy'), ('coco', None, 'box AP'),
                 ('coco', None, 'mask AP'), ('ade20k', None, 'mIoU'))
        lines.append([arch, f'{found[0].parameters / 1e6:.1f}', _giga(found[0].macs), _latency(found[0]),
                      *(figures.get(key, '-') for key in shown)])
    return '\n'.join([
        markdown_table(['model', 'parameters, M', 'MACs, G', 'iPhone 12, ms', 'top-1, 300 epochs', '450 epochs',
                        'COCO box AP', 'mask AP', 'ADE20K mIoU'], lines), '',
        'ImageNet top-1 in % with a teacher; parameters, multiply-adds, latency: the fused classifier at 224 x 224; '
        'Mask R-CNN, 12 epochs; Semantic FPN, 40,000 iterations.'])


def full_table(rows: Sequence[Row]) -> str:
    """The rows of one of :data:`TABLES`, and the conventions of their sizes."""
    results = {result.name for row in rows for result in row.results if row.table != 'sam'}  # docs/sam.md has SAM's
    names = [name for name in SHOWN if name in results]
    throughput = any(row.throughput for row in rows)
    lines = []
    for row in rows:
        figures = {result.name: f'{result.value:.{result.metric.decimals}f}' for result in row.results}
        lines.append([f'[{row.name}](../{row.config})', f'{row.parameters:,}', _giga(row.macs),
                      *(figures.get(name, '-') for name in names), _latency(row),
                      *([f'{row.throughput:,}' if row.throughput else '-'] if throughput else []),
                      _weights(row)])
    header = ['config', 'parameters', 'MACs, G', *names, 'latency, ms', *['GPU images/s'] * throughput, 'weights']
    conventions = [f'- {name}: {rows[0].conventions[key]}.'
                   for name, key in (('Parameters', 'Parameters'), ('MACs', 'FLOPs'))]
    return '\n'.join([markdown_table(header, lines), '', *conventions])


def _giga(macs: int) -> str:
    return f'{macs / 1e9:.{1 if macs > 1e10 else 2}f}'


def _latency(row: Row) -> str:
    return f'{row.latencies[0]:.1f}' if row.latencies else '-'


def _weights(row: Row) -> str:
    links = [f'[file]({row.weights.url})'] if row.weights and row.weights.url != row.hub else []
    if row.hub:
        name = row.hub.removeprefix('hf://')
        links.append(f'[{name.removeprefix("timm/")}](https://huggingface.co/{name})')
    return ', '.join(links) or '-'


def draw_family(rows: Sequence[Row], path: Path) -> None:
    """Draw top-1 of the distilled classifiers against latency and against multiply-adds.

    Args:
        rows: Any rows.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure as Canvas
    canvas = Canvas(figsize=(11, 4.5), layout='constrained')
    axes = canvas.subplots(1, 2, sharey=True)
    for axis, label in zip(axes, ('latency in ms, iPhone 12, Core ML', 'multiply-adds in G'), strict=True):
        for epochs in (300, 450):
            chosen = [row for row in rows if row.table == 'imagenet' and row.distilled and row.epochs == epochs
                      and '_' in row.arch]
            x = [row.latencies[0] if axis is axes[0] else row.macs / 1e9 for row in chosen]
            y = [row.result('Top 1 Accuracy') for row in chosen]
            axis.plot(x, y, 'o-', label=f'RepViT, {epochs} epochs')
            for place, row in zip(zip(x, y, strict=True), chosen, strict=True):
                axis.annotate(row.arch, place, (5, -10), textcoords='offset points', fontsize=8)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('ImageNet-1K top-1, %')
    axes[1].legend(loc='lower right')
    canvas.savefig(path, dpi=100, format='png')


def report(figures: Sequence[Figure], machine: Mapping[str, Any]) -> str:
    """The report of a reproduction in Markdown; measured figures have one more decimal than the published table."""
    lines, missing = [], {}
    for figure in figures:
        name = f'{figure.name}, {figure.dataset}' if figure.dataset else figure.name
        if figure.measured is None:
            missing.setdefault(f'{figure.model}: {figure.note}', []).append(name)
            continue
        more = 0 if figure.decimals is None else figure.decimals + 1
        lines.append([figure.model, name, f'{figure.published:,.{figure.decimals or 0}f}',
                      f'{figure.measured:,.{more}f}', f'{figure.measured - figure.published:+,.{more}f}'])
    return '\n\n'.join([
        '# Published figures, recomputed',
        markdown_table(['model', 'figure', 'published', 'measured', 'difference'], lines, 2),
        *(['Not measured:\n\n' + '\n'.join(f'- {reason} ({"; ".join(names)})' for reason, names in missing.items())]
          if missing else []),
        ', '.join(f'{key} {value}' for key, value in machine.items())]) + '\n'
