"""Look at a folder of your own data, and write a config that trains on it: tools/init.py DIR [options]."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, positive, side
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(
        description='Recognise the format of a folder of data, check every image and annotation, draw some of them, '
                    'and write a config that trains on the folder, which is not changed.', register=False)
    parser.add_argument('data', metavar='DIR', help='folder of the data')
    parser.add_argument('--model', metavar='NAME',
                        help='maskrcnn, fasterrcnn, rtmdet, rtmdet-ins; fpn, segformer; classifier; an architecture '
                             'such as m0_6; or both, such as rtmdet_m0_6 (default: by the data)')
    parser.add_argument('--epochs', type=positive, metavar='N', help='length of the training (default: by the data)')
    parser.add_argument('--size', type=side, metavar='PIXELS', help='longer side of the images of a detector, side of '
                                                                    'those of others (default: by the data)')
    parser.add_argument('--out', metavar='DIR', help='folder of the config (default: DATA_MODEL, here)')
    parser.add_argument('--format', help='format to read if the folder holds several', choices=(
        'coco', 'voc', 'yolo', 'labelme', 'cvat', 'label-studio', 'csv', 'labels', 'folders'))
    parser.add_argument('--train', metavar='FILE', help='COCO annotation file to train on if there are several')
    parser.add_argument('--val', metavar='FILE', help='COCO annotation file to validate on if there are several')
    parser.add_argument('--crowds-as-objects', action='store_true',
                        help='learn crowds (iscrowd=1, and difficult objects of Pascal VOC) as objects')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the folder of an earlier run')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from rich.console import Console

    from repvit_mm.datasets.configs import find_gpu_memory, write_config
    from repvit_mm.datasets.formats import recognise
    from repvit_mm.datasets.report import choose_folder, describe, next_commands, write
    dataset = recognise(args.data, args.format, args.train, args.val, args.crowds_as_objects)
    config = write_config(dataset, find_gpu_memory(), args.model, args.epochs, args.size)
    folder = choose_folder(dataset.root, config.name, args.out, args.overwrite)
    console = Console(soft_wrap=True)
    describe(dataset, console)
    shown = write(dataset, folder, config)
    console.print(next_commands(dataset, folder, config, shown), highlight=False, markup=False)


if __name__ == '__main__':
    run_cli(main)
