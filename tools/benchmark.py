"""Measure how fast models are: tools/benchmark.py CONFIG... --shape H W --batch-size N... --backend NAME..."""
import argparse

from rich.console import Console

from repvit_mm.analysis.backends import BACKENDS, DTYPES
from repvit_mm.analysis.benchmark import Request, run
from repvit_mm.analysis.report import latency_table, machine_line, plot_latencies
from repvit_mm.arguments import positive
from repvit_mm.errors import UserError, run_cli
from repvit_mm.files import atomic_write, check_writable, write_json


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the latency of fused models, side by side with timm's models. docs/benchmark.md "
                    'describes the protocol.')
    parser.add_argument('configs', nargs='+', metavar='config',
                        help='configs of classifiers, segmentors or detectors, or architectures such as m1_1; '
                             "sam_m2_3 is RepViT-SAM's image encoder")
    parser.add_argument('--shape', type=positive, nargs=2, default=(224, 224), metavar=('H', 'W'),
                        help='height and width of the images (default: 224 224)')
    parser.add_argument('--batch-size', type=int, nargs='+', default=[1], metavar='N', help='default: 1')
    parser.add_argument('--backend', nargs='+', default=['eager', 'channels_last'], metavar='NAME',
                        help=f'of {", ".join(BACKENDS)} (default: eager channels_last)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='default: cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), nargs='+', default=['fp32'], help='default: fp32')
    parser.add_argument('--threads', type=positive, metavar='N', help="CPU threads (default: torch's default)")
    parser.add_argument('--rounds', type=int, default=20, metavar='N',
                        help='turns of each system, with three timed calls each (default: 20)')
    parser.add_argument('--train', action='store_true',
                        help='measure a training step, of the training form; in mixed precision with bf16 and fp16')
    parser.add_argument('--frozen-statistics', action='store_true',
                        help='with --train: BatchNorms on their running statistics, as dense tasks are trained')
    parser.add_argument('--memory', action='store_true',
                        help='also measure the peak memory on a CPU, in a process for each system')
    parser.add_argument('--no-timm', action='store_true', help="leave out timm's models")
    parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
    parser.add_argument('--plot', metavar='FILE.png', help='draw them')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    if args.frozen_statistics and not args.train:
        raise UserError('--frozen-statistics is for --train')
    request = Request(args.configs, args.shape, args.batch_size, args.backend, args.dtype, args.device, args.threads,
                      args.rounds, args.train, args.frozen_statistics, args.memory, not args.no_timm)
    for out in filter(None, (args.json, args.plot)):
        check_writable(out)
    result = run(request)
    console = Console()
    console.width = max(console.width, 120)  # in a file or a pipe it would be 80, too narrow for the table
    for line in result.left_out:
        console.print(f'not measured: {line}', soft_wrap=True)
    console.print(latency_table(result))
    console.print(machine_line(result), soft_wrap=True)
    if args.json:
        write_json(args.json, result.as_dict())
    if args.plot:
        with atomic_write(args.plot) as path:
            plot_latencies(result, path)


if __name__ == '__main__':
    run_cli(main)
