"""The results of a reproduction as Markdown, as JSON and on the terminal."""
from collections.abc import Sequence
from typing import Any

from rich.table import Table as RichTable

from .reproduction import Outcome
from .rows import TABLES
from .verdicts import AGREES, DIFFERS, LAST_DIGIT, FigureComparison

VERDICTS = """\
*agrees*: the measured figure rounds to the published one (a count equals it); *last digit*: it is off by one in the
last digit; *differs*: it is further off. A dash means that it was not measured; the reason is given below."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """A table in Markdown; columns from index ``right`` on are right-aligned."""
    rule = ['---' if number < right else '---:' for number in range(len(header))]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, rule, *rows))


def printed(value: float | None, decimals: int | None, sign: bool = False) -> str:
    """A figure with the decimals of its table, a count in full, or a dash for None."""
    if value is None:
        return '-'
    return f'{value:{"+" if sign else ""},.{decimals or 0}f}'


def cells_of(comparison: FigureComparison) -> list[str]:
    """Figure, published, measured, difference and verdict; measured values get one more decimal than the table."""
    more = None if comparison.decimals is None else comparison.decimals + 1
    return [comparison.figure, printed(comparison.published, comparison.decimals),
            printed(comparison.measured, more), printed(comparison.difference, more, sign=True), comparison.verdict]


def report(outcomes: Sequence[Outcome], machine: dict[str, Any]) -> str:
    """The whole report in Markdown."""
    parts = ['# Published tables, recomputed', summary(outcomes), VERDICTS]
    for table, about in TABLES.items():
        chosen = [outcome for outcome in outcomes if outcome.row.table == table]
        if not chosen:
            continue
        rows = [[outcome.row.name, *cells_of(comparison)] for outcome in chosen for comparison in outcome.comparisons
                if comparison.measured is not None]
        parts += [f'## {about.title}']
        if rows:
            parts += [markdown_table(['model', 'figure', 'published', 'measured', 'difference', 'verdict'], rows, 2)]
        conventions = chosen[0].row.conventions.items()
        parts += ['\n'.join(f'- {name.replace("FLOPs", "MACs")}: {text}' for name, text in conventions)]
        parts += _latencies(chosen)
        parts += _left_out(chosen)
    parts += ['## Machine', ', '.join(f'{key} {value}' for key, value in machine.items())]
    return '\n\n'.join(parts) + '\n'


def _latencies(outcomes: Sequence[Outcome]) -> list[str]:
    timed = [outcome for outcome in outcomes if outcome.latency]
    if not timed:
        return []
    backends = list(timed[0].latency)
    rows = [[outcome.row.name, ', '.join(f'{one.value} ({one.hardware}{one.part and ", "}{one.part})'
                                         for one in outcome.row.latencies) or '-',
             *(f'{outcome.latency[backend]:.1f}' for backend in backends)] for outcome in timed]
    return ['Latency in ms for one image; for dense models, of the backbone at 512 x 512. '
            'The machines differ, so that there is no verdict.',
            markdown_table(['model', 'published', *(f'here, {backend}' for backend in backends)], rows)]


def _left_out(outcomes: Sequence[Outcome]) -> list[str]:
    """The figures that were not measured, by reason."""
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        for comparison in outcome.comparisons:
            if comparison.measured is None:
                reasons.setdefault(f'{outcome.row.name}: {comparison.reason}', []).append(comparison.figure)
        for failure in outcome.failures:
            reasons.setdefault(f'{outcome.row.name}: failed: {failure}', [])
    if not reasons:
        return []
    return ['Not measured:\n\n' + '\n'.join(
        f'- {reason}' + (f' ({"; ".join(figures)})' if figures else '') for reason, figures in reasons.items())]


def summary(outcomes: Sequence[Outcome]) -> str:
    """One sentence on how many figures agree."""
    verdicts = [comparison.verdict for outcome in outcomes for comparison in outcome.comparisons]
    counts = {name: verdicts.count(name) for name in (AGREES, LAST_DIGIT, DIFFERS)}
    return (f'{len(outcomes)} models, {len(verdicts)} figures: {sum(counts.values())} measured, {counts[AGREES]} '
            f'agree, {counts[LAST_DIGIT]} off by one in the last digit, {counts[DIFFERS]} differ.')


def as_json(outcomes: Sequence[Outcome], machine: dict[str, Any]) -> dict[str, Any]:
    """The whole report, for JSON."""
    return {'machine': machine, 'rows': [outcome.as_dict() for outcome in outcomes]}


def terminal_table(outcomes: Sequence[Outcome]) -> RichTable:
    """Accuracies, one line each, and how many of the counts agree."""
    table = RichTable('model', 'figure', title='Recomputed')
    for header in ('published', 'measured', 'difference', 'verdict'):
        table.add_column(header, justify='right' if header != 'verdict' else 'left')
    for outcome in outcomes:
        counts = [one.verdict for one in outcome.comparisons if not one.is_accuracy]
        agreement = ', '.join(f'{counts.count(name)} {name}' for name in dict.fromkeys(counts))
        table.add_row(outcome.row.name, 'sizes', '', '', '', agreement, style='red' if outcome.failures else None)
        for comparison in outcome.comparisons:
            if comparison.is_accuracy and comparison.measured is not None:
                table.add_row('', *cells_of(comparison))
    return table
