"""Export a model to ONNX: tools/export_onnx.py CONFIG [CHECKPOINT] --shape H W --out FILE.onnx."""
import argparse

from _export import add_detection_arguments, add_export_arguments, build_for_export, selection

from repvit_mm.errors import run_cli
from repvit_mm.export import export_onnx
from repvit_mm.export.report import show


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description='Export the fused form of a model to ONNX, and compare it with '
                                                 'PyTorch: of a detector, all that it does.')
    add_export_arguments(parser, '.onnx')
    add_detection_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    model = build_for_export(args, '.onnx')
    show(export_onnx(model, args.shape, args.out, args.dynamic_size, args.pictures, selection(args, model)))


if __name__ == '__main__':
    run_cli(main)
