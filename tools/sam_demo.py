"""Segment images with RepViT-SAM: tools/sam_demo.py IMAGE... --point X Y [options]; without images, on a web page."""
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, finite, port, positive, whole_number
from repvit_mm.cli.sam import RANDOM_WEIGHTS, add_model_arguments, grid, model_from
from repvit_mm.errors import ConfigError, UserError, run_cli

if TYPE_CHECKING:
    import numpy as np
    from segment_anything.modeling import Sam

    from repvit_mm.sam import Prompt

#: Settings of segment-anything's automatic mask generator: option -> type, default, help.
EVERYTHING = {
    'points_per_side': (grid, 32, 'prompt with a grid of N x N points'),
    'points_per_batch': (positive, 64, 'points that are decoded at once'),
    'pred_iou_thresh': (finite(), 0.88, 'drop masks with a lower predicted IoU'),
    'stability_score_thresh': (finite(), 0.95, 'drop masks with a lower stability score'),
    'stability_score_offset': (finite(), 1., 'change of the threshold for the stability score'),
    'box_nms_thresh': (finite(), 0.7, 'drop the weaker of two masks whose boxes have a higher IoU'),
    'crop_n_layers': (whole_number(0, 4), 0, 'layers of crops to segment, too; layer i has 4^i crops'),
    'min_mask_region_area': (whole_number(0), 0, 'remove regions and holes of fewer pixels'),
}


def build_parser() -> Parser:
    parser = Parser(description='Segment the object at points or in boxes, or everything, in images. Without images, '
                                'serve a web page to click on.')
    parser.add_argument('images', nargs='*', type=Path, metavar='IMAGE', help='images, or folders of images')
    parser.add_argument('--point', nargs=2, type=float, action='append', default=[], metavar=('X', 'Y'),
                        help='pixel inside the object; several are allowed')
    parser.add_argument('--background', nargs=2, type=float, action='append', default=[], metavar=('X', 'Y'),
                        help='pixel outside the object; several are allowed')
    parser.add_argument('--box', nargs=4, type=float, action='append', default=[], metavar=('X1', 'Y1', 'X2', 'Y2'),
                        help='box around an object; several are segmented one by one')
    parser.add_argument('--everything', action='store_true', help='segment everything in the images')
    for name, (kind, default, text) in EVERYTHING.items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=kind, default=default, metavar='N',
                            help=f'with --everything: {text} (default: {default})')
    parser.add_argument('--out', type=Path, default=Path('outputs/sam'), metavar='DIR',
                        help='folder of the results (default: %(default)s)')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address of the web page; 0.0.0.0 for all (default: %(default)s)')
    parser.add_argument('--port', type=port, default=7860, help='port of the web page (default: %(default)s)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.io.files import make_folder
    from repvit_mm.io.image_files import list_images
    from repvit_mm.sam import Prompt, read_image
    points, labels = [*args.point, *args.background], [1] * len(args.point) + [0] * len(args.background)
    if not args.images:
        if points or args.box or args.everything:
            raise UserError('give an image to segment')
        show_page(args)
        return
    if args.everything and (points or args.box):
        raise UserError('--everything cannot be combined with points or a box')
    if points and len(args.box) > 1:
        raise UserError('several boxes cannot be combined with points')
    prompts = [Prompt(tuple(map(tuple, points)), tuple(labels), box and tuple(box)) for box in args.box or [None]]
    paths = [path for given in args.images for path in (list_images(given) if given.is_dir() else [given])]
    if not args.everything:
        for path in paths:
            height, width = read_image(path).shape[:2]
            for prompt in prompts:
                prompt.checked(width, height)
    sam = model_from(args)
    make_folder(args.out, '--out')
    for path in paths:
        image = read_image(path)
        try:
            segment_image(sam, image, path, [] if args.everything else prompts, args)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error


def segment_image(sam: 'Sam', image: 'np.ndarray', path: Path, prompts: 'list[Prompt]',
                  args: argparse.Namespace) -> None:
    """Write an image with its masks, each mask, and all as annotations."""
    import numpy as np
    from rich.console import Console
    from segment_anything import SamPredictor

    from repvit_mm.io.files import write_json
    from repvit_mm.io.images import write_png
    from repvit_mm.sam import segment, segment_everything
    from repvit_mm.sam.masks import decode, draw
    if prompts:
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        found = [segment(predictor, prompt) for prompt in prompts]
        annotations = [mask.annotation() for masks in found for mask in masks]
        shown = [masks[0].mask for masks in found]
        masks = [mask.mask for masks in found for mask in masks]
    else:
        with Console(stderr=True).status(f'segmenting everything in {path.name}'):
            annotations = segment_everything(sam, image, **{name: getattr(args, name) for name in EVERYTHING})
        masks = shown = [decode(annotation) for annotation in annotations]
    for number, mask in enumerate(masks):
        write_png(args.out / f'{path.stem}_mask_{number:03d}.png', mask.astype(np.uint8) * 255)
    drawn = write_png(args.out / f'{path.stem}_masks.png', draw(image, shown, *prompts))
    height, width = image.shape[:2]
    write_json(table := args.out / f'{path.stem}_masks.json', {
        'image': {'file_name': path.name, 'width': width, 'height': height}, 'annotations': annotations})
    best = f', the best with a predicted IoU of {annotations[0]["predicted_iou"]:.2f}' if prompts else ''
    print(f'{len(masks)} mask{"s" if len(masks) != 1 else ""}{best}: {drawn}, {table}')


def show_page(args: argparse.Namespace) -> None:
    """Serve the web page."""
    from repvit_mm.sam.webpage import build_page, serve
    page = build_page(model_from(args), '' if args.checkpoint else RANDOM_WEIGHTS)
    try:
        serve(page, args.host, args.port)
    except OSError as error:
        raise ConfigError(f'the page cannot be served at {args.host}:{args.port} ({error}); '
                          'choose another --port') from error


if __name__ == '__main__':
    run_cli(main)
