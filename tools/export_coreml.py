"""Export a model to Core ML: tools/export_coreml.py CONFIG [CHECKPOINT] --shape H W --out FILE.mlpackage."""
import argparse

from _export import add_export_arguments, build_for_export

from repvit_mm.arguments import positive
from repvit_mm.errors import run_cli
from repvit_mm.export import export_coreml
from repvit_mm.export.coreml import BOUNDS, WEIGHTS
from repvit_mm.export.report import show


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Export the fused form of a model to Core ML, and compare it with '
                                                 'PyTorch. Of a detector, backbone and neck are exported.')
    add_export_arguments(parser, '.mlpackage')
    parser.add_argument('--also-shape', type=positive, nargs=2, action='append', default=[], metavar=('H', 'W'),
                        help='another size for the package to accept; can be given several times')
    parser.add_argument('--precision', choices=list(BOUNDS), default='fp16', help='default: fp16')
    parser.add_argument('--weights', choices=list(WEIGHTS), default='float',
                        help='how weights are stored; int8 and palette6 are approximations (default: float)')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    model = build_for_export(args, '.mlpackage')
    show(export_coreml(model, args.shape, args.out, args.also_shape, args.precision, args.weights, args.pictures))


if __name__ == '__main__':
    run_cli(main)
