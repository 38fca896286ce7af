"""Run a script of mmdet, mmseg or mmpretrain, such as confusion_matrix: tools/toolbox.py TOOLBOX SCRIPT ..."""
import argparse

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser
from repvit_mm.cli.scripts import WITH_SCRIPTS, describe_script, find_scripts, run_script
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(
        description="Run a toolbox's own script on a config of this package or of yours, with everything that "
                    '`import repvit_mm` provides: operators of mmcv, bases of configs, published checkpoints.')
    parser.add_argument('toolbox', choices=WITH_SCRIPTS, help='toolbox of the script')
    parser.add_argument('script', nargs='?', help='name of the script (default: list all)')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='arguments of the script')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    if args.script is not None:
        run_script(args.toolbox, args.script, args.arguments)
        return
    scripts = find_scripts(args.toolbox)
    width = max(map(len, scripts))
    for name, path in scripts.items():
        print(f'{name:{width}}  {describe_script(path)}'.rstrip())


if __name__ == '__main__':
    run_cli(main)
