"""Recompute the published tables: tools/reproduce_tables.py [imagenet coco ade20k sam] [options]."""
from collections.abc import Sequence
from pathlib import Path

import _interrupt  # noqa: F401
import torch
from rich.console import Console

from repvit_mm.analysis.systems import describe_machine
from repvit_mm.cli.arguments import Parser, positive
from repvit_mm.errors import ConfigError, UserError, run_cli
from repvit_mm.io.files import atomic_write, write_json
from repvit_mm.zoo import TABLES, Row, load_rows
from repvit_mm.zoo.curves import draw_curves, read_curves
from repvit_mm.zoo.documents import write_documents
from repvit_mm.zoo.evaluation import DATA_SETS, Settings
from repvit_mm.zoo.plots import draw_family
from repvit_mm.zoo.reproduction import Reproduction
from repvit_mm.zoo.tables import as_json, report, summary, terminal_table


def build_parser() -> Parser:
    parser = Parser(
        description='Recompute the published tables: parameters and multiply-adds always, accuracies if data and '
                    'weights are available.')
    parser.add_argument('tables', nargs='*', metavar='table', help=f'of {", ".join(TABLES)} (default: all)')
    parser.add_argument('--models', nargs='+', metavar='NAME', help='only models whose name contains one of these')
    parser.add_argument('--data-root', nargs='+', default=[], metavar='[NAME=]DIR',
                        help=f'folder of a data set: {", ".join(_data_names(TABLES))}; NAME may be left out for a '
                             'single table with one data set (default: as in the configs)')
    parser.add_argument('--weights', type=Path, metavar='DIR',
                        help="folder with the released files, or MODEL.pth for others (default: torch's cache)")
    parser.add_argument('--download', action='store_true', help="download released weights into torch's cache")
    parser.add_argument('--boxes', type=Path, metavar='FILE',
                        help="a detector's results in COCO's format, to prompt RepViT-SAM with")
    parser.add_argument('--gpus', type=positive, default=1, metavar='N',
                        help='processes for each test (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override settings of the configs, e.g. test_dataloader.batch_size=64')
    parser.add_argument('--latency', action='store_true', help='measure the latency of this machine')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='for --latency (default: the GPU if there is one)')
    parser.add_argument('--curves', nargs='+', type=Path, default=[], metavar='PATH',
                        help='draw training curves from work folders, scalars.json of mmengine, or tables (CSV)')
    parser.add_argument('--fresh', action='store_true', help='ignore the records of earlier runs')
    parser.add_argument('--out', type=Path, default=Path('outputs/tables'), metavar='DIR',
                        help='folder of tables, pictures and records (default: %(default)s)')
    parser.add_argument('--write-docs', action='store_true',
                        help="only generate the tables in a checkout's README.md and docs/zoo.md")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if args.write_docs:
        for path in write_documents(load_rows(), Path(__file__).resolve().parents[1]):
            print(f'wrote {path}')
        return 0
    rows = choose_rows(load_rows(), args.tables, args.models)
    settings = Settings(parse_data_roots(args.data_root, args.tables or list(TABLES)), args.weights, args.download,
                        args.gpus, args.boxes, tuple(args.cfg_options))
    curves = [curve for path in args.curves for curve in read_curves(path)]
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    outcomes = Reproduction(settings, args.out, device if args.latency else None, args.fresh).run(rows)
    machine = describe_machine(device, torch.get_num_threads())
    with atomic_write(args.out / 'tables.md') as path:
        path.write_text(report(outcomes, machine))
    write_json(args.out / 'tables.json', as_json(outcomes, machine))
    measured = {outcome.row.name: one.measured for outcome in outcomes for one in outcome.comparisons
                if one.figure.startswith('Top 1') and one.measured is not None}
    with atomic_write(args.out / 'accuracy.png') as path:
        draw_family(load_rows(), path, measured)
    if curves:
        with atomic_write(args.out / 'curves.png') as path:
            draw_curves(curves, path)
    console = Console()
    console.width = max(console.width, 120)
    console.print(terminal_table(outcomes))
    console.print(f'{summary(outcomes)} Tables, reasons and pictures: {args.out}', soft_wrap=True, highlight=False)
    if failed := [outcome.row.name for outcome in outcomes if outcome.failures]:
        raise UserError(f'{len(failed)} of {len(rows)} models failed: {", ".join(failed)}; '
                        f'{args.out / "tables.md"} says why')
    return 0


def choose_rows(rows: Sequence[Row], tables: Sequence[str], models: Sequence[str] | None) -> list[Row]:
    """The rows of the tables whose name contains one of ``models``."""
    if unknown := [table for table in tables if table not in TABLES]:
        raise ConfigError(f'unknown table {unknown[0]}; choose from {", ".join(TABLES)}')
    chosen = [row for row in rows if not tables or row.table in tables]
    for model in models or []:
        if not any(model in row.name for row in chosen):
            raise ConfigError(f'--models {model}: unknown model; choose from {", ".join(row.name for row in chosen)}')
    return [row for row in chosen if not models or any(model in row.name for model in models)]


def parse_data_roots(values: Sequence[str], tables: Sequence[str]) -> dict[str, Path]:
    """``NAME=DIR`` of data sets that the tables use; ``DIR`` alone if they use one."""
    names, roots = _data_names(tables), {}
    for value in values:
        name, separator, root = value.partition('=')
        if not separator:
            if len(names) != 1 or len(values) != 1:
                raise ConfigError(f'--data-root {value}: name the data set, {" or ".join(names)}, as NAME=DIR')
            name, root = names[0], value
        if name not in names:
            raise ConfigError(f'--data-root {value}: unknown data set {name} for {", ".join(tables)}; choose from '
                              f'{", ".join(names)}')
        roots[name] = Path(root).expanduser()
    return roots


def _data_names(tables: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for table, name in DATA_SETS if table in tables))


if __name__ == '__main__':
    run_cli(main)
