"""Segment an image with RepViT-SAM: tools/sam_demo.py IMAGE --point X Y [options]."""
import argparse
from pathlib import Path

import _interrupt  # noqa: F401
import numpy as np
from rich.console import Console
from rich.progress import Progress
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from repvit_mm.cli.arguments import Parser, finite
from repvit_mm.cli.sam import add_model_arguments, grid, model_from
from repvit_mm.errors import UserError, run_cli
from repvit_mm.io.files import make_folder, write_json
from repvit_mm.io.images import write_png
from repvit_mm.sam import Prompt, read_image, segment, segment_everything
from repvit_mm.sam.masks import decode, draw


def build_parser() -> Parser:
    parser = Parser(description='Segment the object at points or in a box, or a whole image.')
    parser.add_argument('image', type=Path, help='image, in any format that Pillow can read')
    parser.add_argument('--point', nargs=2, type=float, action='append', default=[], metavar=('X', 'Y'),
                        help='pixel inside the object; several are allowed')
    parser.add_argument('--background', nargs=2, type=float, action='append', default=[], metavar=('X', 'Y'),
                        help='pixel outside the object; several are allowed')
    parser.add_argument('--box', nargs=4, type=float, metavar=('X1', 'Y1', 'X2', 'Y2'), help='box around the object')
    parser.add_argument('--everything', action='store_true', help='segment everything in the image')
    parser.add_argument('--points-per-side', type=grid, default=32, metavar='N',
                        help='with --everything: prompt with a grid of N x N points (default: %(default)s)')
    parser.add_argument('--pred-iou-threshold', type=finite(), default=0.88, metavar='P',
                        help='with --everything: drop masks with a lower predicted IoU (default: %(default)s)')
    parser.add_argument('--stability-score-threshold', type=finite(), default=0.95, metavar='P',
                        help='with --everything: drop masks with a lower stability score (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('outputs/sam'), metavar='DIR',
                        help='folder of the results (default: %(default)s)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    prompt = Prompt((*map(tuple, args.point), *map(tuple, args.background)),
                    (1,) * len(args.point) + (0,) * len(args.background), args.box and tuple(args.box))
    asked = bool(prompt.points) or prompt.box is not None
    if args.everything and asked:
        raise UserError('--everything cannot be combined with points or a box')
    image = read_image(args.image)
    if not args.everything:
        prompt = prompt.checked(image.shape[1], image.shape[0])
    sam, out = model_from(args), make_folder(args.out, '--out')
    if args.everything:
        annotations = _everything(sam, image, args)
        masks, shown = [decode(annotation) for annotation in annotations], None
    else:
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        found = segment(predictor, prompt)
        annotations = [mask.annotation() for mask in found]
        masks, shown = [mask.mask for mask in found], prompt
    _write(out, args.image, image, masks, annotations, shown)


def _everything(sam: Sam, image: np.ndarray, args: argparse.Namespace) -> list[dict]:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task('everything', total=args.points_per_side ** 2)
        return segment_everything(
            sam, image, args.points_per_side, pred_iou_thresh=args.pred_iou_threshold,
            stability_score_thresh=args.stability_score_threshold,
            on_progress=lambda count: progress.advance(task, count))


def _write(out: Path, source: Path, image: np.ndarray, masks: list[np.ndarray], annotations: list[dict],
           prompt: Prompt | None) -> None:
    """Write picture, masks and annotations; the picture shows the best mask of a prompt, or all masks."""
    height, width = image.shape[:2]
    content = {'image': {'file_name': source.name, 'width': width, 'height': height}, 'annotations': annotations}
    for number, mask in enumerate(masks):
        write_png(out / f'{source.stem}_mask_{number:03d}.png', mask.astype(np.uint8) * 255)
    picture = write_png(out / f'{source.stem}_masks.png', draw(image, masks if prompt is None else masks[:1], prompt))
    write_json(table := out / f'{source.stem}_masks.json', content)
    best = f', the best with a predicted IoU of {annotations[0]["predicted_iou"]:.2f}' if prompt is not None else ''
    print(f'{len(masks)} mask{"s" if len(masks) != 1 else ""}{best}: {picture}, {table}')


if __name__ == '__main__':
    run_cli(main)
