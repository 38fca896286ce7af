"""Arguments and model of the export tools."""
import argparse

from repvit_mm.arguments import positive
from repvit_mm.errors import UserError
from repvit_mm.export.detectors import Selection, spread_outputs
from repvit_mm.inference import InferenceModel, build_inference_model, randomise_weights


def add_export_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Add the arguments of all export tools.

    Args:
        parser: The tool's parser.
        suffix: Suffix of the exported file.
    """
    parser.add_argument('config', help='config of a classifier, segmentor or detector, or an architecture such as m1_1')
    parser.add_argument('checkpoint', nargs='?',
                        help='its weights, fused or not: path, repvit://NAME or https address; without them they are '
                             'random, which is enough for timing')
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


def add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the tools that export whole detectors, and images of any size."""
    parser.add_argument('--dynamic-size', action='store_true',
                        help='accept any height and width; for a segmentor or detector, any multiple of 32')
    parser.add_argument('--pyramid', action='store_true',
                        help='export backbone and neck of a detector; its heads are left to another program')
    parser.add_argument('--score-threshold', type=float, metavar='P',
                        help="give detections that score more, 0 to 1 (default: the config's)")
    parser.add_argument('--iou-threshold', type=float, metavar='P',
                        help='drop one of two detections of a class that overlap by more, 0 to 1 (default: the '
                             "config's)")
    parser.add_argument('--max-detections', type=positive, metavar='N',
                        help="give at most so many (default: the config's)")


def selection(args: argparse.Namespace, model: InferenceModel) -> Selection | None:
    """Which detections the arguments ask for; None where none are exported."""
    asked = Selection(args.score_threshold, args.iou_threshold, args.max_detections)
    if model.task.name != 'detection' or args.pyramid:
        if asked != Selection() or (args.pyramid and model.task.name != 'detection'):
            raise UserError(f'{model.name} is exported without detections: --pyramid, thresholds and --max-detections '
                            'are for detectors, and not for both at once')
        return None
    if args.checkpoint is None:
        spread_outputs(model)
    return asked
