"""Count parameters and multiply-adds: tools/get_flops.py CONFIG --shape H W [--fused] [--json FILE]."""
from dataclasses import asdict

import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import MODEL, Parser, add_shape, whole_number
from repvit_mm.errors import run_cli


def build_parser() -> Parser:
    parser = Parser(description='Count the parameters and multiply-adds of a model, stage by stage.')
    parser.add_argument('config', help=MODEL)
    add_shape(parser)
    parser.add_argument('--fused', action='store_true', help='count the fused form only')
    parser.add_argument('--depth', type=whole_number(0), default=2, metavar='N',
                        help='levels of the tree (default: %(default)s, the stages)')
    parser.add_argument('--json', metavar='FILE', help='also write the tree to this file')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    from rich.console import Console

    from repvit_mm.analysis.complexity import complexity_table, count
    from repvit_mm.io.files import write_json
    from repvit_mm.models.inference import build_inference_model
    model = build_inference_model(args.config)
    forms = {'inference': True} if args.fused else {'training': False, 'inference': True}
    trees = {form: count(model, args.shape, fused, args.depth) for form, fused in forms.items()}
    console = Console()
    console.print(complexity_table(trees, args.shape))
    console.print(f'MACs are those of convolutions and linear layers in {model.task.counted or model.task.covers}.',
                  soft_wrap=True)
    if args.json:
        write_json(args.json, {'shape': list(args.shape), **{form: asdict(tree) for form, tree in trees.items()}})


if __name__ == '__main__':
    run_cli(main)
