"""Export a model to other runtimes: tools/export.py CONFIG [CHECKPOINT] --to FORMAT... [--shape H W]."""
import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CHECKPOINT, FORMATS, MODEL, PICTURES, Parser, fraction, positive, side
from repvit_mm.errors import UserError, run_cli


def build_parser() -> Parser:
    parser = Parser(description='Export the fused form of a model, and compare each file with PyTorch before it is put '
                                'in place.')
    add = parser.add_argument
    add('config', help=f'{MODEL}; or a checkpoint in the folder of its training, or repvit://NAME')
    add('checkpoint', nargs='?', help=f'{CHECKPOINT} (default: random weights, for timing only)')
    add('--to', choices=FORMATS, nargs='+', required=True, help='formats')
    add('--precision', choices=['fp32', 'fp16', 'int8', 'int8-weights'], nargs='+', default=[None],
        help='one file for each (default: fp16 for Core ML, fp32 for the others)')
    add('--shape', type=side, nargs=2, metavar=('H', 'W'),
        help="height and width of the image (default: those of the config's test, else 224 224)")
    add('--out', type=Path, metavar='PATH',
        help='the file, or the folder of several (default: NAME_HxW, and _PRECISION where given)')
    add('--pictures', nargs='+', default=(), metavar='FILE', help=PICTURES)
    add('--operations', action='store_true', help='also print the number of each operation')
    add('--dynamic-batch', action='store_true', help='ONNX, OpenVINO: accept any number of images')
    add('--dynamic-size', action='store_true',
        help='ONNX, OpenVINO: accept any height and width; for a segmentor or detector, any multiple of 32')
    add('--also-shape', type=side, nargs=2, action='append', default=[], metavar=('H', 'W'),
        help='Core ML: another size for the package to accept; several are allowed')
    add('--gelu', choices=['tanh'], help="approximate GELU, so that Android's NNAPI runs the whole ONNX file")
    add('--weights', choices=('float', 'int8'), default='float',
        help='Core ML: how weights are stored; int8 is an approximation (default: %(default)s)')
    add('--layout', choices=('nchw', 'nhwc'), default='nchw',
        help='LiteRT: nhwc takes the channels of the image last, as cameras give them (default: %(default)s)')
    add('--pyramid', action='store_true', help='export only the backbone and neck of a detector, without its heads')
    add('--score-threshold', type=fraction, metavar='P', help="lowest score of a detection (default: the config's)")
    add('--iou-threshold', type=fraction, metavar='P',
        help="IoU above which only the better of two detections of a class is kept (default: the config's)")
    add('--max-detections', type=positive, metavar='N', help="largest number of detections (default: the config's)")
    add('--calibrate', metavar='DIR', help='int8: folder of some hundred typical images')
    add('--data-root', metavar='DIR',
        help="int8: path of the config's test data, which judge the file (default: the config's; without them, the "
             'agreement with PyTorch on a quarter of the images)')
    add('--allow-loss', action='store_true', help='write an int8 file in spite of any loss of accuracy')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.export import export_model
    from repvit_mm.export.detectors import spread_outputs
    from repvit_mm.export.images import load_inputs
    from repvit_mm.export.prepare import check_input, size_of_test
    from repvit_mm.models.inference import CHECKPOINT_SUFFIXES, build_inference_model, find_model, randomise_weights
    if args.checkpoint is None and ('://' in args.config or args.config.endswith(CHECKPOINT_SUFFIXES)):
        args.config, args.checkpoint = find_model(args.config)
    jobs = jobs_of(args)
    model = build_inference_model(args.config, args.checkpoint)
    args.shape = args.shape or size_of_test(model) or (224, 224)
    if (size_of_test(model) or tuple(args.shape)) != tuple(args.shape):
        height, width = size_of_test(model)
        print(f'The test of {model.name} scales images to {height} x {width}, not {args.shape[0]} x {args.shape[1]}: '
              "results differ from the config's test")
    detections = selection_of(args, model)
    if args.checkpoint is None:
        check_input(model, [args.shape, *args.also_shape])
        if detections is None:
            randomise_weights(model, load_inputs([max(side, 64) for side in args.shape], 4, model.normalisation))
        else:  # statistics of photographs would let rounding decide on the objects
            randomise_weights(model)
            spread_outputs(model, args.shape)
        print(f'{model.name} has random weights: give a checkpoint for anything but timing')
    failures = []
    for (name, options), out in zip(jobs, outs_of(args, jobs), strict=True):
        try:
            report = export_model(model, name, args.shape, out, options._replace(selection=detections))
            print(report)
            if args.operations:
                print(', '.join(f'{number} {operation}' for operation, number in report.operations.most_common()))
        except UserError as error:  # the other formats are still written
            failures.append(str(error) if len(jobs) == 1 else f'{name}: {error}')
    if failures:
        raise UserError('\nerror: '.join(failures))


def jobs_of(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """Format and options of each file."""
    from repvit_mm.export import Options
    from repvit_mm.export.calibration import Quantisation, find_images
    from repvit_mm.export.formats import check_options
    if args.calibrate is not None and not {'int8', 'int8-weights'} & {*args.precision}:
        raise UserError('--calibrate is for --precision int8')
    int8 = args.calibrate and Quantisation(find_images(args.calibrate), args.data_root, args.allow_loss)
    asked = Options(None, args.pictures, None, args.dynamic_batch, args.dynamic_size, tuple(args.also_shape),
                    args.gelu, args.weights, args.layout)
    return [(name, check_options(name, asked._replace(
        precision=precision, quantisation=int8 if precision in ('int8', 'int8-weights') else None)))
            for name in args.to for precision in args.precision]


def outs_of(args: argparse.Namespace, jobs: Sequence[tuple[str, Any]]) -> list[Path]:
    """Path of each file."""
    from repvit_mm.export import FORMATS as ROWS
    from repvit_mm.io.files import make_folder
    suffixes = [ROWS[name].suffix for name, _ in jobs]
    if len(jobs) == 1 and args.out is not None and (
            args.out.name.endswith(suffixes[0]) or args.out.suffix and not args.out.is_dir()):
        return [args.out]
    folder = Path() if args.out is None else make_folder(args.out, '--out')
    stem = f'{Path(args.config).stem}_{args.shape[0]}x{args.shape[1]}'
    asked = args.precision != [None]  # in the name, so that one precision does not overwrite another
    return [folder / f'{stem}{f"_{options.precision}" if asked else ""}{suffix}'
            for (_, options), suffix in zip(jobs, suffixes, strict=True)]


def selection_of(args: argparse.Namespace, model: Any) -> Any:
    """Detections that the arguments ask for; None where none are exported."""
    from repvit_mm.export import Selection
    asked = Selection(args.score_threshold, args.iou_threshold, args.max_detections)
    if model.task.name == 'detection' and not args.pyramid:
        return asked
    if asked != Selection() or (args.pyramid and model.task.name != 'detection'):
        raise UserError(f'{model.name} is exported without detections: --pyramid, thresholds and --max-detections '
                        'are for detectors, and not for both at once')
    return None


if __name__ == '__main__':
    run_cli(main)
