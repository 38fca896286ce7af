"""Export a model to ONNX, as export.py --to onnx: tools/export_onnx.py CONFIG [CHECKPOINT] --shape H W."""
from _export import build_export_parser, export

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import Parser
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    return build_export_parser('onnx')


def main() -> None:
    export(build_parser().parse_args())


if __name__ == '__main__':
    run_cli(main)
