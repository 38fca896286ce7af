"""Test the model of a config, of any OpenMMLab toolbox: tools/test.py CONFIG CHECKPOINT [options]."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CHECKPOINT, ENGINES, Parser, add_common_arguments, positive, tell
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Test a model with mmdet, mmseg or mmpretrain.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint',
                        help=f'{CHECKPOINT}; with --backend an exported file')
    parser.add_argument('--backend', choices=ENGINES,
                        help='test a file of export.py with this runtime')
    parser.add_argument('--out', metavar='PATH',
                        help='save the predictions to this .pkl file; for segmentation, a folder of label maps')
    parser.add_argument('--show-dir', metavar='DIR', help='draw the predictions, and save them in this folder')
    parser.add_argument('--report', metavar='DIR',
                        help='write report.html: figures of each class, confusion matrix, curves, the worst images')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--slide', type=positive, metavar='SIZE',
                        help='segment overlapping squares of SIZE pixels a side instead of whole images')
    add_common_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.analysis.report import enable_report
    from repvit_mm.engine.config import load_config
    from repvit_mm.engine.mistakes import one_report
    from repvit_mm.engine.prepare import prepare
    from repvit_mm.engine.runner import run
    from repvit_mm.export.testing import use_exported
    from repvit_mm.toolboxes import toolbox_of

    with one_report():
        tell(f'reading {args.config}')
        cfg = load_config(args.config, args.cfg_options)
        toolbox = toolbox_of(cfg)
        cfg.load_from, cfg.resume = args.checkpoint, False
        prepare(cfg, args, 'test')
        if args.show_dir:
            toolbox.draw_predictions(cfg, args.show_dir)
        if args.report:
            enable_report(cfg, args.report)
        if args.slide is not None:
            toolbox.enable_slide(cfg, args.slide)
        if args.backend:
            use_exported(cfg, args.checkpoint, args.backend)
        if args.tta:
            toolbox.enable_tta(cfg)
        if args.out:
            toolbox.dump_predictions(cfg, args.out)
        tell('building the model and reading the data')
        run(cfg, 'test', args.cfg_options)


if __name__ == '__main__':
    run_cli(main)
