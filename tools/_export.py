"""Arguments and work of the export tools: export.py, and one for each of the older formats."""
import argparse
from collections.abc import Sequence
from pathlib import Path

from repvit_mm.cli.arguments import CHECKPOINT, MODEL, PICTURES, Parser, add_shape, fraction, positive, side
from repvit_mm.errors import UserError
from repvit_mm.export import BACKENDS, Options, Selection, export_model
from repvit_mm.export.backends import check_options, why_no_detections
from repvit_mm.export.calibration import Quantisation, find_pictures
from repvit_mm.export.coreml import WEIGHTS
from repvit_mm.export.detectors import spread_outputs
from repvit_mm.export.report import show
from repvit_mm.export.verification import BOUNDS
from repvit_mm.io.files import make_folder
from repvit_mm.models.inference import InferenceModel, build_inference_model, randomise_weights
from repvit_mm.toolboxes.datasets import datasets_of


def build_export_parser(*formats: str) -> Parser:
    """The parser of a tool that exports to these formats; without any, ``--to`` names them."""
    asked = formats or tuple(BACKENDS)
    parser = Parser(description='Export the fused form of a model, and compare each file with PyTorch '
                                'before it is put in place.')
    parser.add_argument('config', help=MODEL)
    parser.add_argument('checkpoint', nargs='?',
                        help=f'{CHECKPOINT}; random if left out, which is enough for timing')
    if formats:
        parser.set_defaults(to=formats)
    else:
        parser.add_argument('--to', choices=BACKENDS, nargs='+', required=True, help='the formats')
    parser.add_argument('--precision', choices=[*BOUNDS, 'bf16', 'int8'], nargs='+', default=[None],
                        help='one file for each (default: fp16 for Core ML, fp32 for the others)')
    add_shape(parser)
    parser.add_argument('--out', type=Path, metavar='PATH',
                        help='the file, or the folder of several (default: NAME_HxW, and _PRECISION where given)')
    parser.add_argument('--pictures', nargs='+', default=(), metavar='FILE',
                        help=PICTURES)
    _add_optional(parser, {option for name in asked for option in BACKENDS[name].options})
    return parser


def _add_optional(parser: Parser, options: set[str]) -> None:
    """Add the arguments that only some formats take; those that these formats do not take keep their defaults."""
    parser.set_defaults(pyramid=False, score_threshold=None, iou_threshold=None, max_detections=None,
                        dynamic_size=False, also_shape=(), weights='float', calibrate=None)
    if 'dynamic_size' in options:
        parser.add_argument('--dynamic-size', action='store_true',
                            help='accept any height and width; for a segmentor or detector, any multiple of 32')
    if 'quantisation' in options:
        parser.add_argument('--calibrate', metavar='DIR',
                            help='for int8: a folder of some hundred pictures like those that the model will see')
        parser.add_argument('--data-root', metavar='DIR',
                            help="for int8: where the config's test data are, which judge the file (default: where the "
                                 'config says; without them, the agreement with PyTorch on a quarter of the pictures)')
        parser.add_argument('--allow-loss', action='store_true',
                            help='write an int8 file whatever accuracy it loses')
    if 'selection' in options:
        parser.add_argument('--pyramid', action='store_true',
                            help='export only the backbone and neck of a detector, without its heads')
        parser.add_argument('--score-threshold', type=fraction, metavar='P',
                            help="return detections with a higher score, 0 to 1 (default: the config's)")
        parser.add_argument('--iou-threshold', type=fraction, metavar='P',
                            help='IoU above which only the better of two detections of a class is kept, 0 to 1 '
                                 "(default: the config's)")
        parser.add_argument('--max-detections', type=positive, metavar='N',
                            help="return at most this many (default: the config's)")
    if 'more_shapes' in options:
        parser.add_argument('--also-shape', type=side, nargs=2, action='append', default=[], metavar=('H', 'W'),
                            help='another size for a Core ML package to accept; several are allowed')
        parser.add_argument('--weights', choices=list(WEIGHTS), default='float',
                            help='how Core ML stores weights; int8 and palette6 are approximations '
                                 '(default: %(default)s)')


def export(args: argparse.Namespace) -> None:
    """Export what the arguments ask for. A format that fails does not keep the others from being written.

    Raises:
        UserError: If the arguments contradict each other, or a file was not written; names all such files.
    """
    asked = Options(None, args.pictures, None, args.dynamic_size, tuple(args.also_shape), args.weights)
    int8 = (None if args.calibrate is None else
            Quantisation(find_pictures(args.calibrate), args.data_root, args.allow_loss))
    if int8 is not None and 'int8' not in args.precision:
        raise UserError('--calibrate is for --precision int8')
    jobs = [(name, check_options(name, asked._replace(precision=precision,
                                                      quantisation=int8 if precision == 'int8' else None)))
            for name in args.to for precision in args.precision]
    outs = _outs(args, jobs)
    model = build_inference_model(args.config, args.checkpoint)
    detections = _selection(args, model)
    _compare_size(model, args.shape)
    if args.checkpoint is None:
        randomise_weights(model)
        if detections is not None:
            spread_outputs(model)
        print(f'{model.name} has random weights: give a checkpoint for anything but timing')
    failures = []
    for (name, options), out in zip(jobs, outs, strict=True):
        if detections is not None and (reason := why_no_detections(name, model)):
            print(f'{name} holds no detections: {reason}. Backbone and neck of {model.name} are exported')
        else:
            options = options._replace(selection=detections)
        try:
            show(export_model(model, name, args.shape, out, options))
        except UserError as error:
            failures.append(str(error) if len(jobs) == 1 else f'{name}: {error}')
    if failures:
        raise UserError('\nerror: '.join(failures))


def _compare_size(model: InferenceModel, shape: Sequence[int]) -> None:
    """Say so where the config's test has images of another size, on which a model finds something else."""
    steps = [step for _, dataset in datasets_of(model.config or {}, ['test_dataloader'])
             for step in dataset.get('pipeline') or ()]
    scale = next((step['scale'] for step in steps if step['type'] == 'Resize' and 'scale' in step), None)
    if isinstance(scale, list | tuple) and sorted(scale) != sorted(shape):
        print(f'The test of {model.name} scales pictures to {scale[1]} x {scale[0]}; the file takes '
              f'{shape[0]} x {shape[1]} (--shape), and finds what the model finds in that')


def _outs(args: argparse.Namespace, jobs: Sequence[tuple[str, Options]]) -> list[Path]:
    suffixes = [BACKENDS[name].suffix for name, _ in jobs]
    if len(jobs) == 1 and args.out is not None and (not args.out.is_dir() or args.out.name.endswith(suffixes[0])):
        return [args.out]
    folder = Path() if args.out is None else make_folder(args.out, '--out')
    stem = f'{Path(args.config).stem}_{args.shape[0]}x{args.shape[1]}'
    asked = args.precision != [None]  # in the name, so that one precision does not replace another
    return [folder / f'{stem}{f"_{options.precision}" if asked else ""}{suffix}'
            for (_, options), suffix in zip(jobs, suffixes, strict=True)]


def _selection(args: argparse.Namespace, model: InferenceModel) -> Selection | None:
    """Which detections the arguments ask for; None where none are exported."""
    asked = Selection(args.score_threshold, args.iou_threshold, args.max_detections)
    if model.task.name == 'detection' and not args.pyramid:
        return asked
    if asked != Selection() or (args.pyramid and model.task.name != 'detection'):
        raise UserError(f'{model.name} is exported without detections: --pyramid, thresholds and --max-detections '
                        'are for detectors, and not for both at once')
    return None
