"""What the export tools print."""
import argparse

from rich.console import Console
from rich.table import Table

from ..arguments import positive
from ..inference import InferenceModel, build_inference_model, draw_weights
from .verification import ExportReport


def add_export_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """The arguments that all export tools have.

    Args:
        parser: Gets them.
        suffix: Of the file that is written.
    """
    parser.add_argument('config', help='config of a classifier, segmentor or detector, or an architecture such as m1_1')
    parser.add_argument('checkpoint', nargs='?', help='its weights, fused or not: path, repvit://NAME or http address; '
                                                      'without them they are random, which is enough for timing')
    parser.add_argument('--shape', type=positive, nargs=2, default=(224, 224), metavar=('H', 'W'),
                        help='height and width of the image (default: 224 224)')
    parser.add_argument('--out', metavar=f'FILE{suffix}', help=f'default: NAME_HxW{suffix}')
    parser.add_argument('--pictures', nargs='+', default=(), metavar='FILE',
                        help='pictures to compare the outputs on (default: a photograph that matplotlib brings along)')


def build_for_export(args: argparse.Namespace, suffix: str) -> InferenceModel:
    """The model that the arguments name; ``args.out`` gets its default."""
    model = build_inference_model(args.config, args.checkpoint)
    if args.checkpoint is None:
        draw_weights(model)
        print(f'{model.name} has random weights: give a checkpoint for anything but timing')
    args.out = args.out or f'{model.name}_{args.shape[0]}x{args.shape[1]}{suffix}'
    return model


def show(report: ExportReport) -> None:
    """Print what was written and how it compares with PyTorch."""
    console = Console()
    table = Table('output', 'shape', 'largest difference', 'rms', 'allowed', title=f'{report.runner}, against PyTorch')
    for result in report.comparisons:
        table.add_row(result.output, ' x '.join(map(str, result.shape)),
                      *(f'{number:.1e}' for number in (result.difference, result.rms, result.bound)))
    console.print(table)
    console.print('Operations:', ', '.join(f'{number} {name}' for name, number in report.operations.most_common()))
    console.print(f'{report.path}: {report.size / 1e6:.1f} MB, fused', soft_wrap=True)
