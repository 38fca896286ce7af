"""Train the model of a config, of any OpenMMLab toolbox: tools/train.py CONFIG [options]."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, add_common_arguments, positive, tell
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Train a model with mmdet, mmseg or mmpretrain.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='resume from this checkpoint; without a path, from the last in the work folder')
    parser.add_argument('--no-pretrained', action='store_true',
                        help='start from random weights instead of those that the config names')
    parser.add_argument('--epochs', type=positive, metavar='N',
                        help='length of the training; learning rate schedules are stretched or shortened')
    parser.add_argument('--amp', action='store_true',
                        help='automatic mixed precision, in optim_wrapper.dtype (default: float16); on a CPU, bfloat16')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate to the batch size')
    add_common_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.engine.config import load_config
    from repvit_mm.engine.mistakes import one_report
    from repvit_mm.engine.prepare import prepare
    from repvit_mm.engine.runner import run

    with one_report():
        tell(f'reading {args.config}')
        cfg = load_config(args.config, args.cfg_options)
        prepare(cfg, args, 'train')
        tell('building the model and reading the data')
        run(cfg, 'train', args.cfg_options)


if __name__ == '__main__':
    run_cli(main)
