"""Recompute the published tables: tools/reproduce_tables.py [imagenet coco ade20k sam] [options]."""
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, positive
from repvit_mm.errors import ConfigError, UserError, run_cli

if TYPE_CHECKING:
    from repvit_mm.zoo import Row

#: Tables and data sets of repvit_mm.zoo, which loads torch.
TABLES = ('imagenet', 'coco', 'ade20k', 'sam')
DATA_SETS = ('imagenet', 'coco', 'ade20k', 'bsds500', 'seginw', 'duts', 'mvtec')


def build_parser() -> Parser:
    parser = Parser(
        description='Recompute the published tables: parameters and multiply-adds always, accuracies if data and '
                    'weights are available.')
    parser.add_argument('tables', nargs='*', metavar='table', help=f'of {", ".join(TABLES)} (default: all)')
    parser.add_argument('--models', nargs='+', metavar='NAME', help='only models whose name contains one of these')
    parser.add_argument('--data-root', nargs='+', default=[], metavar='NAME=DIR',
                        help=f'folder of a data set: {", ".join(DATA_SETS)} (default: as in the configs)')
    parser.add_argument('--boxes', nargs='+', default=[], metavar='NAME=FILE',
                        help="a detector's boxes for a data set, to prompt RepViT-SAM with")
    parser.add_argument('--weights', type=Path, metavar='DIR',
                        help="folder with the released files, or MODEL.pth for others (default: torch's cache)")
    parser.add_argument('--download', action='store_true', help="download released weights into torch's cache")
    parser.add_argument('--gpus', type=positive, default=1, metavar='N',
                        help='processes for each test (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help='override settings of the configs, e.g. test_dataloader.batch_size=64')
    parser.add_argument('--out', type=Path, default=Path('outputs/tables'), metavar='DIR',
                        help='folder of tables and logs (default: %(default)s)')
    parser.add_argument('--write-docs', action='store_true',
                        help="only generate the tables in a checkout's README.md and docs/zoo.md")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    import torch
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from repvit_mm.analysis.benchmark import describe_machine
    from repvit_mm.io.files import atomic_write, make_folder, write_json
    from repvit_mm.zoo import load_rows
    from repvit_mm.zoo.documents import report, write_documents
    from repvit_mm.zoo.reproduction import Settings, reproduce
    if args.write_docs:
        for path in write_documents(load_rows(), Path(__file__).resolve().parents[1]):
            print(f'wrote {path}')
        return
    rows = choose_rows(load_rows(), args.tables, args.models)
    settings = Settings(args.out, parse_paths('--data-root', args.data_root), parse_paths('--boxes', args.boxes),
                        args.weights, args.download, args.gpus, tuple(args.cfg_options))
    make_folder(args.out, '--out')
    machine = describe_machine('cpu' if not torch.cuda.is_available() else 'cuda', torch.get_num_threads())
    figures, failed = [], []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        for row in progress.track(rows, description='rows'):
            found, failures = reproduce(row, settings, progress.console)
            figures += found
            failed += [f'{row.name}: {line}' for line in failures]
            write_json(args.out / 'tables.json', {
                'machine': machine, 'figures': [asdict(figure) for figure in figures], 'failures': failed})
            with atomic_write(args.out / 'tables.md') as path:
                path.write_text(report(figures, machine))
    measured = sum(figure.measured is not None for figure in figures)
    print(f'{len(rows)} models: {measured} of {len(figures)} figures measured; {args.out / "tables.md"} has them, and '
          'the reasons why others are missing')
    if failed:
        raise UserError(f'{len(failed)} measurements failed, the first: {failed[0]}')


def choose_rows(rows: 'Sequence[Row]', tables: Sequence[str], models: Sequence[str] | None) -> 'list[Row]':
    """The rows of the tables whose name contains one of ``models``."""
    if unknown := [table for table in tables if table not in TABLES]:
        raise ConfigError(f'unknown table {unknown[0]}; choose from {", ".join(TABLES)}')
    chosen = [row for row in rows if not tables or row.table in tables]
    for model in models or []:
        if not any(model in row.name for row in chosen):
            raise ConfigError(f'--models {model}: unknown model; choose from {", ".join(row.name for row in chosen)}')
    return [row for row in chosen if not models or any(model in row.name for model in models)]


def parse_paths(option: str, values: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` of data sets -> paths."""
    paths = {}
    for value in values:
        name, separator, path = value.partition('=')
        if not separator or name not in DATA_SETS:
            raise ConfigError(f'{option} {value}: expected NAME=PATH; NAME is one of {", ".join(DATA_SETS)}')
        paths[name] = Path(path).expanduser()
    return paths


if __name__ == '__main__':
    run_cli(main)
