"""Look at a folder of your own data, and write a config that trains on them: tools/init.py DIR [options]."""
import shlex

import _interrupt  # noqa: F401
from rich.console import Console

from repvit_mm.cli.arguments import Parser
from repvit_mm.datasets.recognising import FORMATS, recognise
from repvit_mm.datasets.writing import choose_folder, describe, write
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    kinds = ', '.join(f'{name} ({form.kind})' for name, form in FORMATS.items())
    parser = Parser(
        description='Look at a folder of data, say what it holds and what looks wrong, draw some pictures with their '
                    'annotations, and write a config that trains on it. The folder itself is not changed.')
    parser.add_argument('data', metavar='DIR', help='folder of the data')
    parser.add_argument('--out', metavar='DIR', help='where the config goes (default: NAME_repvit, here)')
    parser.add_argument('--format', choices=FORMATS, help=f'of several formats in the folder, take this one: {kinds}')
    parser.add_argument('--train', metavar='FILE', help="of several files in COCO's format, train on this one")
    parser.add_argument('--val', metavar='FILE', help="of several files in COCO's format, validate with this one")
    parser.add_argument('--overwrite', action='store_true', help='replace a folder that was written before')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    folder = choose_folder(args.data, args.out, args.overwrite)
    found = recognise(args.data, args.format, args.train, args.val)
    console = Console(soft_wrap=True)
    describe(found, console)
    output = write(found, folder)
    config, work_dir = shlex.quote(str(output.config)), f'work_dirs/{output.config.stem}'
    console.print(f'\nWritten: {output.config}\n         {output.written.about}\n         {folder / "pictures.png"}\n'
                  f'         {output.shown} pictures with their annotations: look at them first\n'
                  f'Train:   repvit-mm train {config}\n'
                  f'Test:    repvit-mm test {config} {work_dir}/{output.written.checkpoint} '
                  f'--show-dir {work_dir}/pictures',
                  highlight=False, markup=False)


if __name__ == '__main__':
    run_cli(main)
