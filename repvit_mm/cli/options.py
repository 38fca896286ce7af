"""The command-line options that training and testing share."""
import argparse
import os
from collections.abc import Sequence

from mmengine.config import DictAction

from .arguments import seed


class CfgOptions(DictAction):
    """mmengine's ``key=value`` pairs; anything else is a usage error."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str],
                 option_string: str | None = None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} takes key=value pairs, got {value!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError):  # how mmengine fails on unbalanced brackets, and on dicts in lists
            parser.error(f'{option_string}: expected numbers, strings, or lists and tuples of them, got '
                         f'{" ".join(values)}')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``tools/train.py`` and ``tools/test.py`` both take."""
    parser.add_argument('--work-dir', metavar='DIR', help='logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    parser.add_argument('--data-root', metavar='DIR',
                        help='where the data set is, for every loader and evaluator (default: where the config says)')
    parser.add_argument('--seed', type=seed, metavar='N', help='seed of all random numbers (default: random)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_dataloader.batch_size=4 '
                             '"param_scheduler.1.milestones=[8,11]"; no spaces inside a value')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='what started the processes of a distributed run (default: %(default)s)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse, and tell mmengine the local rank wherever the launcher keeps it."""
    args = parser.parse_args()
    local_rank = {'slurm': 'SLURM_LOCALID', 'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK'}.get(args.launcher, '')
    os.environ.setdefault('LOCAL_RANK', os.environ.get(local_rank, str(args.local_rank)))
    return args
