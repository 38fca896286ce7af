"""Run a script of mmdet, mmseg or mmpretrain, such as confusion_matrix: tools/toolbox.py TOOLBOX SCRIPT ..."""
import argparse
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser
from repvit_mm.errors import TRACEBACK_VARIABLE, UserError, explain, run_cli


def build_parser() -> Parser:
    parser = Parser(
        description="Run a toolbox's own script on a config of this package or of yours, with everything that "
                    '`import repvit_mm` provides: operators of mmcv, bases of configs, published checkpoints.')
    parser.add_argument('toolbox', choices=('mmdet', 'mmpretrain', 'mmseg'), help='toolbox of the script')
    parser.add_argument('script', nargs='?', help='path of the script, or the end of it (default: list all)')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...', help='arguments of the script')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    spec = find_spec(args.toolbox)
    if spec is None:
        raise UserError(f'{args.toolbox} is not installed; `repvit-mm doctor` shows the command')
    folder = Path(spec.submodule_search_locations[0]) / '.mim' / 'tools'
    paths = sorted(folder.rglob('*.py'), key=lambda path: (len(path.parts), path))
    scripts = {path.relative_to(folder).with_suffix('').as_posix(): path for path in paths}
    if args.script is None:
        print('\n'.join(scripts))
        return
    path = next((path for name, path in scripts.items() if f'/{name}'.endswith(f'/{args.script}')), None)
    if path is None:
        raise UserError(f'{args.toolbox} has no script {args.script}; `repvit-mm toolbox {args.toolbox}` lists them')
    from mmengine.registry import init_default_scope

    from repvit_mm.engine.config import INSTALLED_CONFIGS as INSTALLED
    sys.path[:0] = [str(path.parent), os.getcwd()]  # some import a neighbour, configs a module of this folder
    sys.argv = [str(path), *(str(INSTALLED / word) if (INSTALLED / word).is_file() and not Path(word).exists() else word
                             for word in args.arguments)]
    init_default_scope(args.toolbox)  # for scripts that build objects of a base `repvit_mm::` before there is a runner
    try:
        runpy.run_path(str(path), run_name='__main__')
    except Exception as error:  # a script can raise anything, such as a KeyError for a metric that a log lacks
        if explain(error) is None:
            raise UserError(f'{args.toolbox} {path.stem} ends with {type(error).__name__}: {error}; '
                            f'{TRACEBACK_VARIABLE}=1 shows where') from error
        raise


if __name__ == '__main__':
    run_cli(main)
