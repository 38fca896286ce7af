"""Train, evaluate and fuse a small Mask R-CNN on a data set drawn on the spot: tools/quickstart.py [options]."""
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CfgOptions, Parser, positive, seed
from repvit_mm.errors import run_cli

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs' / 'quickstart' / 'maskrcnn_repvit_m0_6_shapes.py'
SHOWN = {'box AP': 'coco/bbox_mAP', 'box AP50': 'coco/bbox_mAP_50', 'mask AP': 'coco/segm_mAP',
           'mask AP50': 'coco/segm_mAP_50'}


def build_parser() -> Parser:
    parser = Parser(
        description='Draw a data set, train a Mask R-CNN on RepViT with it, evaluate, fuse, evaluate again. '
                    'Run it again to resume an interrupted training from its last checkpoint.')
    parser.add_argument('--work-dir', metavar='DIR', type=Path, default=Path('work_dirs/quickstart'),
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--seed', type=seed, default=0, metavar='N',
                        help='seed of scenes and training (default: %(default)s)')
    parser.add_argument('--train-scenes', type=positive, default=1200, metavar='N',
                        help='scenes to train on (default: %(default)s)')
    parser.add_argument('--val-scenes', type=positive, default=150, metavar='N',
                        help='held-out scenes (default: %(default)s)')
    parser.add_argument('--fresh', action='store_true', help='train again, and replace the earlier detector')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_cfg.max_epochs=12')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from rich.console import Console
    from rich.table import Table

    from repvit_mm.cli.quickstart import Quickstart, check_unchanged
    from repvit_mm.engine.config import load_config

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    start, console = time.monotonic(), Console()
    job = Quickstart(load_config(CONFIG, args.cfg_options), TOOLS, args.work_dir, args.seed,
                     (args.train_scenes, args.val_scenes), console)
    console.rule('1/5  Drawing the data set', align='left')
    job.draw()
    console.rule('2/5  Training', align='left')
    checkpoint = job.train(args.fresh)
    console.rule('3/5  Evaluating', align='left')
    trained = job.evaluate(checkpoint, 'trained')
    console.rule('4/5  Fusing, and evaluating again', align='left')
    result = job.fuse(checkpoint)
    fused = job.evaluate(result.path, 'fused')
    check_unchanged(trained, fused)
    console.rule('5/5  Drawing losses and predictions', align='left')
    losses, predictions = job.draw_results()
    table = Table('', 'trained', 'fused', title='On held-out scenes')
    for name, key in SHOWN.items():
        table.add_row(name, f'{trained[key]:.3f}', f'{fused[key]:.3f}')
    table.add_row('parameters', f'{result.parameters_before:,}', f'{result.parameters_after:,}')
    console.print(table)
    width, height = job.cfg.scale
    scene = min((job.data / 'images' / 'val').iterdir())
    say(console, f"""\
minutes      {(time.monotonic() - start) / 60:.1f}
checkpoint   {checkpoint}
fused        {result.path}
losses       {losses}
predictions  {predictions}

Next commands:""")
    # For this Python and these files, to copy from the terminal.
    for what, (tool, *arguments) in {
            'Draw the detections on all held-out scenes:':
                ['test.py', job.config, checkpoint, '--show-dir', job.work_dir / 'drawings'],
            'Export the whole detector, and compare it with PyTorch on a scene:':
                ['export.py', job.config, checkpoint, '--to', 'onnx', '--shape', height, width, '--pictures', scene,
                 '--out', job.work_dir / 'detector.onnx']}.items():
        command = shlex.join(map(str, [_from_here(sys.executable), _from_here(TOOLS / tool), *arguments]))
        say(console, f'# {what}\n{command}')
    say(console, '# Your own data, and the other tasks: docs/own_data.md')


def say(console: Any, text: str) -> None:
    """Print without wrapping: paths and commands are for copying."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _from_here(path: str | Path) -> str:
    """A path as one types it: relative to the current folder if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


if __name__ == '__main__':
    run_cli(main)
