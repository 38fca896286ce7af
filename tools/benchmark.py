"""Measure how fast models are: tools/benchmark.py CONFIG... --shape H W --batch-size N... --backend NAME..."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import ENGINES, Parser, add_shape, positive
from repvit_mm.errors import UserError, run_cli

#: Keys of the tables in repvit_mm.analysis.backends, which loads torch.
BACKENDS = ('unfused', 'eager', 'channels_last', 'compile', *(name for name in ENGINES if name != 'coreml'))
TRAININGS = ('eager', 'channels_last', 'cheap', 'compile')


def build_parser() -> Parser:
    parser = Parser(
        description="Measure the latency of fused models, side by side with timm's models. docs/benchmark.md "
                    'describes the protocol.')
    parser.add_argument('configs', nargs='+', metavar='config',
                        help='configs of classifiers, segmentors or detectors, architectures such as m1_1, or files '
                             "of the backends; sam_m2_3 is RepViT-SAM's image encoder")
    add_shape(parser)
    parser.add_argument('--batch-size', type=positive, nargs='+', default=[1], metavar='N',
                        help='images in a batch (default: 1)')
    parser.add_argument('--backend', nargs='+', metavar='NAME', default=['eager', 'channels_last'],
                        help=f'some of {", ".join(BACKENDS)}; with --train, of {", ".join(TRAININGS)} (default: eager '
                             'channels_last)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu',
                        help='where the models run (default: %(default)s)')
    parser.add_argument('--precision', choices=('fp32', 'bf16', 'fp16'), nargs='+', default=['fp32'],
                        help='precision of the models (default: fp32)')
    parser.add_argument('--threads', type=positive, metavar='N',
                        help="CPU threads of each engine (default: torch's number)")
    parser.add_argument('--rounds', type=positive, default=20, metavar='N',
                        help='measurements of each system, in turns (default: %(default)s)')
    parser.add_argument('--train', action='store_true',
                        help='measure a training step of the unfused model; bf16 and fp16 use mixed precision')
    parser.add_argument('--frozen-statistics', action='store_true',
                        help='with --train: BatchNorms use their running statistics, as in detection and segmentation')
    parser.add_argument('--no-timm', action='store_true', help="skip timm's models")
    parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from rich.console import Console

    from repvit_mm.analysis.benchmark import latency_table, run
    from repvit_mm.analysis.systems import Request
    from repvit_mm.io.files import check_writable, write_json
    if args.frozen_statistics and not args.train:
        raise UserError('--frozen-statistics is for --train')
    if args.json:
        check_writable(args.json)
    result = run(Request(args.configs, args.shape, args.batch_size, args.backend, args.precision, args.device,
                         args.threads, args.rounds, args.train, args.frozen_statistics, not args.no_timm))
    console = Console()
    console.width = max(console.width, 140)  # in a file or a pipe it would be 80, too narrow for the table
    console.print(latency_table(result))
    lines = [f'not measured: {line}' for line in result.left_out]
    for line in [*lines, ', '.join(f'{key} {value}' for key, value in result.machine.items())]:
        console.print(line, soft_wrap=True, highlight=False)
    if args.json:
        write_json(args.json, result.as_dict())


if __name__ == '__main__':
    run_cli(main)
