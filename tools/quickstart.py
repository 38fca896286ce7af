"""Train, fuse and test a small Mask R-CNN on a data set drawn on the spot: tools/quickstart.py [options]."""
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


def build_parser() -> Parser:
    parser = Parser(
        description='Draw a data set, train a Mask R-CNN on RepViT with it, fuse and test it. '
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

    from repvit_mm.cli.quickstart import Quickstart
    from repvit_mm.engine.config import load_config

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    start, console = time.monotonic(), Console()
    job = Quickstart(load_config(CONFIG, args.cfg_options), TOOLS, args.work_dir, args.seed,
                     (args.train_scenes, args.val_scenes), console)
    console.rule('1/3  Training on a data set drawn now', align='left')
    checkpoint = job.train(args.fresh)
    console.rule('2/3  Fusing', align='left')
    fused = job.fuse(checkpoint)
    say(console, f'  {fused.parameters_before:,} parameters, fused {fused.parameters_after:,}')
    console.rule('3/3  Testing on held-out scenes', align='left')
    metrics = job.test(fused.path)
    width, height = job.cfg.scale
    scene = min((job.data / 'images' / 'val').iterdir())
    say(console, f"""\
box AP       {metrics['coco/bbox_mAP']:.3f}
mask AP      {metrics['coco/segm_mAP']:.3f}
minutes      {(time.monotonic() - start) / 60:.1f}
checkpoint   {checkpoint}
fused        {fused.path}
report       {job.report}

Next commands:""")
    # For this Python and these files, to copy from the terminal.
    for what, (tool, *arguments) in {
            'Draw the detections on all held-out scenes:':
                ['test.py', job.config, fused.path, '--show-dir', job.work_dir / 'drawings'],
            'Export the whole detector, and compare it with PyTorch on a scene:':
                ['export.py', job.config, checkpoint, '--to', 'onnx', '--shape', height, width, '--pictures', scene,
                 '--out', job.work_dir / 'detector.onnx'],
            'Check your own data in a folder DIR, and write a config:': ['init.py', 'DIR']}.items():
        command = shlex.join(map(str, [_from_here(sys.executable), _from_here(TOOLS / tool), *arguments]))
        say(console, f'# {what}\n{command}')


def say(console: Any, text: str) -> None:
    """Print without wrapping: paths and commands are for copying."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _from_here(path: str | Path) -> str:
    """A path as one types it: relative to the current folder if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


if __name__ == '__main__':
    run_cli(main)
