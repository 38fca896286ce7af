"""What the export tools print."""
from rich.console import Console
from rich.table import Table

from .verification import ExportReport


def show(report: ExportReport) -> None:
    """Print what was written and how it compares with PyTorch."""
    console = Console()
    if report.verdict is not None:
        console.print(f'{report.runner}: {report.verdict}', soft_wrap=True, highlight=False)
    else:
        console.print(_differences(report))
    console.print('Operations:', ', '.join(f'{number} {name}' for name, number in report.operations.most_common()))
    console.print(f'{report.path}: {report.size / 1e6:.1f} MB, fused', soft_wrap=True)


def _differences(report: ExportReport) -> Table:
    table = Table('output', 'shape', 'largest difference', 'rms', 'allowed', title=f'{report.runner}, against PyTorch')
    for result in report.comparisons:
        table.add_row(result.output, ' x '.join(map(str, result.shape)),
                      *(f'{number:.1e}' for number in (result.difference, result.rms, result.bound)))
    return table
