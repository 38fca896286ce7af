"""Measure how fast models are: tools/benchmark.py CONFIG... --shape H W --batch-size N... --backend NAME..."""
from collections.abc import Callable
from functools import partial
from pathlib import Path

import _interrupt  # noqa: F401
from rich.console import Console

from repvit_mm.analysis.backends import BACKENDS
from repvit_mm.analysis.benchmark import Request, run
from repvit_mm.analysis.by_layer import layer_task, measure_layers
from repvit_mm.analysis.latency import TRAININGS, describe_machine
from repvit_mm.analysis.limits import WIDTHS
from repvit_mm.analysis.report import (
    latency_table,
    layer_table,
    machine_lines,
    plot_latencies,
    plot_layers,
    recommendations,
)
from repvit_mm.cli.arguments import Parser, add_shape, finite, positive
from repvit_mm.errors import UserError, run_cli
from repvit_mm.io.files import atomic_write, check_writable, write_json


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
    parser.add_argument('--backend', nargs='+', metavar='NAME',
                        help=f'some of {", ".join(BACKENDS)}; with --train, of {", ".join(TRAININGS)} (default: eager '
                             'channels_last; with --by-layer channels_last)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu',
                        help='where the models run (default: %(default)s)')
    parser.add_argument('--dtype', choices=list(WIDTHS), nargs='+', default=['fp32'],
                        help='precision of the models (default: fp32)')
    parser.add_argument('--threads', type=positive, metavar='N',
                        help="CPU threads of each engine (default: torch's number)")
    parser.add_argument('--rounds', type=positive, default=20, metavar='N',
                        help='rounds, with three timed calls of each system (default: %(default)s)')
    parser.add_argument('--train', action='store_true',
                        help='measure a training step of the unfused model; bf16 and fp16 use mixed precision')
    parser.add_argument('--frozen-statistics', action='store_true',
                        help='with --train: BatchNorms use their running statistics, as in detection and segmentation')
    parser.add_argument('--no-timm', action='store_true', help="leave out timm's models")
    parser.add_argument('--by-layer', action='store_true',
                        help='measure the blocks of one model, by kind of layer, with the backend eager or '
                             'channels_last')
    parser.add_argument('--within', type=finite(0), default=0.05, metavar='D',
                        help='largest difference of the outputs, relative to the largest value, that the second '
                             'recommended backend may have (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
    parser.add_argument('--plot', metavar='FILE', help='also plot the figures to this file (.png)')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    if args.frozen_statistics and not args.train:
        raise UserError('--frozen-statistics is for --train')
    backends = args.backend or ['eager', 'channels_last'][args.by_layer:]
    request = Request(args.configs, args.shape, args.batch_size, backends, args.dtype, args.device, args.threads,
                      args.rounds, args.train, args.frozen_statistics, not args.no_timm, args.within)
    for out in filter(None, (args.json, args.plot)):
        check_writable(out)
    console = Console()
    console.width = max(console.width, 140)  # in a file or a pipe it would be 80, too narrow for the table
    if args.by_layer:
        figures, draw = show_layers(request, console)
    else:
        figures, draw = show_systems(request, console)
    if args.json:
        write_json(args.json, figures)
    if args.plot:
        with atomic_write(args.plot) as path:
            draw(path)


def show_systems(request: Request, console: Console) -> tuple[dict, Callable[[Path], None]]:
    result = run(request)
    for line in result.left_out:
        console.print(f'not measured: {line}', soft_wrap=True)
    console.print(latency_table(result))
    for line in (*machine_lines(result.machine, result.rates, result.covers), *recommendations(result)):
        console.print(line, soft_wrap=True, highlight=False)
    return result.as_dict(), partial(plot_latencies, result)


def show_layers(request: Request, console: Console) -> tuple[dict, Callable[[Path], None]]:
    task = layer_task(request)
    parts, rates = measure_layers(task, request.rounds)
    console.print(layer_table(task, parts))
    machine = describe_machine(task.device, task.threads)
    for line in machine_lines(machine, rates):
        console.print(line, soft_wrap=True, highlight=False)
    figures = {'task': task._asdict(), 'machine': machine, 'rates': rates._asdict(),
               'parts': [part._asdict() for part in parts]}
    return figures, partial(plot_layers, task, parts)


if __name__ == '__main__':
    run_cli(main)
