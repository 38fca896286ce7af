"""Export a model to OpenVINO: tools/export_openvino.py CONFIG [CHECKPOINT] --shape H W --out FILE.xml."""
import argparse

from _export import add_detection_arguments, add_export_arguments, build_for_export, selection

from repvit_mm.errors import run_cli
from repvit_mm.export.openvino import export_openvino
from repvit_mm.export.report import show
from repvit_mm.export.verification import BOUNDS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Export the fused form of a model to OpenVINO, and compare it with '
                                                 'PyTorch: of a detector, all that it does.')
    add_export_arguments(parser, '.xml')
    add_detection_arguments(parser)
    parser.add_argument('--precision', choices=list(BOUNDS), default='fp32',
                        help='of the stored weights (default: fp32)')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    model = build_for_export(args, '.xml')
    show(export_openvino(model, args.shape, args.out, args.dynamic_size, args.pictures, selection(args, model),
                         args.precision))


if __name__ == '__main__':
    run_cli(main)
