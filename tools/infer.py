"""Predict on images, folders, videos or a camera, with any model: tools/infer.py MODEL INPUT... [options]."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser, fraction, positive
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Draw the predictions of a detector, segmentor or classifier.')
    parser.add_argument('model', help='name of a model, such as maskrcnn_repvit_m1_1; a config; repvit://NAME; or a '
                                      'checkpoint in the folder of its training')
    parser.add_argument('inputs', nargs='+', metavar='INPUT',
                        help="images, videos, folders of them, patterns such as 'photos/**/*.jpg', or camera:0")
    parser.add_argument('--checkpoint', metavar='FILE',
                        help='weights: a path, repvit://NAME, hf://OWNER/REPO or https address (default: those that '
                             'MODEL names, or the published ones)')
    parser.add_argument('--out', default='outputs/infer', metavar='DIR',
                        help='folder of the drawings and of predictions.json (default: %(default)s)')
    parser.add_argument('--score-threshold', type=fraction, default=0.3, metavar='P',
                        help='lowest score of objects, and of labels in multi-label classification '
                             '(default: %(default)s)')
    parser.add_argument('--batch-size', type=positive, default=1, metavar='N',
                        help='images in a batch (default: %(default)s)')
    parser.add_argument('--max-frames', type=positive, metavar='N', help='stop a video or camera after N frames')
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1, ... (default: the GPU if there is one)')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.models.predicting import load_predictor
    from repvit_mm.models.running import Run
    from repvit_mm.models.sources import find_inputs
    run = Run(find_inputs(args.inputs), args.out, args.batch_size, args.max_frames)
    predictor = load_predictor(args.model, args.checkpoint, args.device, args.score_threshold)
    run.start(predictor, {'model': args.model, 'checkpoint': args.checkpoint})


if __name__ == '__main__':
    run_cli(main)
