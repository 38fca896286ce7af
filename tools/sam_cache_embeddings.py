"""Compute the embeddings of a SAM once, for its distillation: tools/sam_cache_embeddings.py CONFIG --out DIR."""
import repvit_mm_cli  # noqa: F401, before repvit_mm, which then loads no torch
from repvit_mm.cli.arguments import CfgOptions, Parser, positive
from repvit_mm.errors import ConfigError, run_cli


def build_parser() -> Parser:
    parser = Parser(
        description="Write the teacher's embeddings of the images that a config trains on, in half precision. "
                    'Run it again to continue where it stopped; existing embeddings are checked.')
    parser.add_argument('config', help='path of a config with a SamDistiller')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the embeddings')
    parser.add_argument('--split', choices=('train', 'val'), default='train',
                        help='images for training or for validation (default: %(default)s)')
    parser.add_argument('--data-root', metavar='DIR', help='folder of the data set (default: that of the config)')
    parser.add_argument('--part', nargs=2, type=positive, default=(1, 1), metavar=('I', 'N'),
                        help='only part I of N, to split the work between processes')
    parser.add_argument('--batch-size', type=positive, default=1, metavar='N',
                        help='images in a batch (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE',
                        help='override settings of the config')
    return parser


def main() -> None:
    args = build_parser().parse_args()
    import torch
    from mmengine.device import get_device
    from mmengine.registry import DATASETS, init_default_scope
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from repvit_mm.engine.config import load_config
    from repvit_mm.engine.prepare import move_data_root
    from repvit_mm.sam.distillation import cache_embeddings
    from repvit_mm.sam.embedding_cache import EmbeddingCache
    from repvit_mm.sam.teacher import SamTeacher
    part, parts = args.part
    if part > parts:
        raise ConfigError(f'--part {part} {parts}: the first number must be from 1 to the second')
    cfg = load_config(args.config, args.cfg_options)
    if cfg.get('model', {}).get('type') != 'SamDistiller':
        raise ConfigError(f'{args.config} is not a config of a SAM distillation: expected model.type SamDistiller')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    loader = f'{args.split}_dataloader'
    cfg[loader].dataset.cache = None

    dataset = DATASETS.build(cfg[loader].dataset)
    teacher = SamTeacher(**cfg.model.teacher, image_size=cfg.model.image_size)
    cache = EmbeddingCache(args.out)
    cache.create(teacher.identity())
    device = torch.device(get_device())
    names = dataset.names[part - 1::parts]
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task('embeddings', total=len(names))
        kept = cache_embeddings(cache, dataset, names, teacher, device, args.batch_size,
                                lambda count: progress.advance(task, count))
    print(f'{len(names)} embeddings in {args.out}, {kept} of them already existed; train with --cfg-options '
          f'{loader}.dataset.cache={args.out}')


if __name__ == '__main__':
    run_cli(main)
