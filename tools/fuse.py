"""Write a deploy checkpoint: tools/fuse.py CONFIG CHECKPOINT OUT."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CHECKPOINT, MODEL, Parser
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(
        description='Fold the BatchNorms and branches of RepViT, and of its classifier, into single layers. The '
                    'written file loads into fused and unfused models. Layers of the toolboxes are left unchanged.')
    parser.add_argument('config', help=MODEL)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('out', help='file to write')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from repvit_mm.models.deploy import fuse_checkpoint
    result = fuse_checkpoint(args.config, args.checkpoint, args.out)
    print(f'parameters: {result.parameters_before:,} before, {result.parameters_after:,} after')
    print(f'largest difference of the outputs: {result.difference:.1e} of the largest value')
    print(f'{result.path}: {result.size / 1e6:.1f} MB, was {result.size_before / 1e6:.1f} MB of weights')


if __name__ == '__main__':
    run_cli(main)
