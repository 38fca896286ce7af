"""Recomputing the published tables, row by row."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import UserError
from ..version import __version__
from .counting import compare_counts, count_row, latency_inputs, measure_latency
from .evaluation import DATA_SETS, Settings, Unavailable, evaluation_of, inputs_of, measure_accuracy
from .records import Record, Records
from .rows import Row
from .verdicts import FigureComparison


@dataclass
class Outcome:
    """Measured figures of a row.

    Attributes:
        row: The published model.
        comparisons: All figures, including those that were not measured.
        latency: Backend -> milliseconds on this machine; empty if not requested.
        failures: Error messages, one line each.
        seconds: Duration of its measurements, including those of earlier runs.
    """

    row: Row
    comparisons: list[FigureComparison] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {'name': self.row.name, 'table': self.row.table, 'config': self.row.config,
                'weights': self.row.weights and self.row.weights.url, 'source': self.row.source,
                'seconds': round(self.seconds, 3),
                'figures': [comparison.as_dict() for comparison in self.comparisons], 'latency_ms': self.latency,
                'failures': self.failures}


class Reproduction:
    """Measures the figures of rows and records them.

    Args:
        settings: Data, weights and options.
        out: Folder for records and logs.
        latency: Device to measure the latency on, ``'cpu'`` or ``'cuda'``; None to skip it.
        fresh: Whether to ignore the records of earlier runs.
        console: Where to show progress.
    """

    def __init__(self, settings: Settings, out: Path, latency: str | None = None, fresh: bool = False,
                 console: Console | None = None):
        self.settings, self.out, self.latency = settings, out, latency
        self.records = Records(out / 'records', fresh)
        self.console = console or Console(stderr=True)

    def run(self, rows: Sequence[Row]) -> list[Outcome]:
        """Measure all rows; a failure in one does not stop the others."""
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        outcomes = []
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task('rows', total=len(rows))
            for row in rows:
                progress.update(task, description=row.name)
                outcomes.append(self.measure(row, progress.console))
                progress.advance(task)
        return outcomes

    def measure(self, row: Row, console: Console) -> Outcome:
        """Measure one row."""
        outcome = Outcome(row)
        self._count(outcome)
        for table, name in DATA_SETS:
            if table == row.table:
                self._evaluate(outcome, name, console)
        known = {data.dataset for (table, _), data in DATA_SETS.items() if table == row.table}
        outcome.comparisons += [
            FigureComparison(f'{result.name}, {result.dataset}', result.value, result.metric.decimals,
                             reason=f'there is no tool to measure {result.dataset}', is_accuracy=True)
            for result in row.results if result.dataset not in known]
        if self.latency:
            self._time(outcome)
        for line in outcome.failures:
            console.print(f'{row.name}: {line}', style='red', markup=False, highlight=False, soft_wrap=True)
        return outcome

    def _count(self, outcome: Outcome) -> None:
        row = outcome.row
        inputs = {'config': row.config, 'resolution': list(row.resolution), 'version': __version__}
        record, reason = self._attempt(outcome, f'{row.name}.size', lambda: inputs, lambda: count_row(row))
        if record is not None:
            outcome.comparisons += compare_counts(row, {name: int(n) for name, n in record.figures.items()})
        else:
            outcome.comparisons += [
                FigureComparison(name, stated, None, reason=reason) for name, stated in
                (('parameters', row.parameters), ('training parameters', row.training_parameters), ('MACs', row.macs))]

    def _evaluate(self, outcome: Outcome, name: str, console: Console) -> None:
        row, dataset = outcome.row, DATA_SETS[outcome.row.table, name].dataset
        log = self.out / 'logs' / f'{row.name}.{name}.log'
        record, reason = self._attempt(
            outcome, f'{row.name}.{name}', lambda: inputs_of(evaluation_of(row, name, self.settings), self.settings),
            lambda: measure_accuracy(evaluation_of(row, name, self.settings), self.settings, log, console))
        figures = {} if record is None else record.figures
        outcome.comparisons += [
            FigureComparison(f'{result.name}, {dataset}', result.value, result.metric.decimals,
                             figures.get(result.name), reason, is_accuracy=True)
            for result in row.results if result.dataset == dataset]

    def _time(self, outcome: Outcome) -> None:
        row, device = outcome.row, self.latency
        name = {'imagenet': 'classifier', 'sam': 'sam'}.get(row.table, 'backbone')
        record, _ = self._attempt(outcome, f'latency.{name}.{row.arch}', lambda: latency_inputs(row, device),
                                  lambda: measure_latency(row, device))
        outcome.latency = {} if record is None else record.figures

    def _attempt(self, outcome: Outcome, name: str, inputs: Callable[[], dict[str, Any]],
                 measure: Callable[[], dict[str, float]]) -> tuple[Record | None, str]:
        """A record, or the reason why it is missing."""
        try:
            record = self.records.get(name, inputs(), measure)
        except Unavailable as reason:
            return None, str(reason)
        except UserError as error:
            outcome.failures.append(str(error))
            return None, f'failed: {error}'
        except Exception as error:  # a bug in one row must not stop the others
            self.console.print_exception()
            outcome.failures.append(f'{type(error).__name__}: {error}')
            return None, f'failed: {type(error).__name__}: {error}'
        outcome.seconds += record.seconds
        return record, ''
