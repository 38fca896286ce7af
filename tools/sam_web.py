"""Segment images with RepViT-SAM on a web page: tools/sam_web.py [options]."""

import _interrupt  # noqa: F401

from repvit_mm.cli.arguments import Parser, port
from repvit_mm.cli.sam import RANDOM_WEIGHTS, add_model_arguments, model_from
from repvit_mm.errors import ConfigError, run_cli
from repvit_mm.sam.webpage import LARGEST_UPLOAD, build_page


def build_parser() -> Parser:
    parser = Parser(description='Serve a web page that segments uploaded images by clicks.')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to serve on; 0.0.0.0 for all (default: %(default)s)')
    parser.add_argument('--port', type=port, default=7860, help='port to serve on (default: %(default)s)')
    add_model_arguments(parser)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    page = build_page(model_from(args), '' if args.checkpoint else RANDOM_WEIGHTS)
    try:
        page.launch(server_name=args.host, server_port=args.port, share=False,
                    max_file_size=LARGEST_UPLOAD)
    except OSError as error:
        raise ConfigError(f'the page cannot be served at {args.host}:{args.port} ({error}); '
                          'choose another --port') from error


if __name__ == '__main__':
    run_cli(main)
