"""Arguments and model of the export tools."""
import argparse

from repvit_mm.arguments import positive
from repvit_mm.inference import InferenceModel, build_inference_model, randomise_weights


def add_export_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Add the arguments of all export tools.

    Args:
        parser: The tool's parser.
        suffix: Suffix of the exported file.
    """
    parser.add_argument('config', help='config of a classifier, segmentor or detector, or an architecture such as m1_1')
    parser.add_argument('checkpoint', nargs='?', help='its weights, fused or not: path, repvit://NAME or http address; '
                                                      'without them they are random, which is enough for timing')
    parser.add_argument('--shape', type=positive, nargs=2, default=(224, 224), metavar=('H', 'W'),
                        help='height and width of the image (default: 224 224)')
    parser.add_argument('--out', metavar=f'FILE{suffix}', help=f'default: NAME_HxW{suffix}')
    parser.add_argument('--pictures', nargs='+', default=(), metavar='FILE',
                        help='pictures to compare the outputs on (default: a photograph that comes with matplotlib)')


def build_for_export(args: argparse.Namespace, suffix: str) -> InferenceModel:
    """Build the model of the arguments, and set the default of ``args.out``."""
    model = build_inference_model(args.config, args.checkpoint)
    if args.checkpoint is None:
        randomise_weights(model)
        print(f'{model.name} has random weights: give a checkpoint for anything but timing')
    args.out = args.out or f'{model.name}_{args.shape[0]}x{args.shape[1]}{suffix}'
    return model
