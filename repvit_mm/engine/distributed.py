"""Distributed runs: who started them, and one report of an error instead of one a process."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from ..errors import ConfigError, UserError

#: Launcher -> what its processes find in their environment, and how to start them.
_LAUNCHED = {
    'pytorch': ('RANK', 'tools/dist_train.sh, tools/dist_test.sh or torchrun'),
    'slurm': ('SLURM_PROCID', 'tools/slurm_train.sh, tools/slurm_test.sh or srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}


def check_launcher(launcher: str) -> None:
    """Raise a ConfigError unless this process was started by ``launcher``."""
    if launcher in _LAUNCHED and _LAUNCHED[launcher][0] not in os.environ:
        raise ConfigError(f'--launcher {launcher} is for processes that were started by it: use '
                          f'{_LAUNCHED[launcher][1]}, or leave it out to run one process')


@contextmanager
def one_report() -> Iterator[None]:
    """Let one process of a run report an error of the user, and all end.

    Once the processes know each other, the first that meets an error reports it, and whoever fails then because
    a partner is gone stays silent. Before, the first process of each machine reports.
    """
    try:
        yield
    except UserError:
        if not _reports():
            raise SystemExit(1) from None
        raise
    except KeyboardInterrupt:
        if _local_rank() != 0:
            raise SystemExit(130) from None
        raise
    except RuntimeError:
        if distributed.is_initialized() and _errors() > 0:
            raise SystemExit(1) from None
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _reports() -> bool:
    return _errors(new=1) == 1 if distributed.is_initialized() else _local_rank() == 0


def _errors(new: int = 0) -> int:
    """How many processes have failed so far, with ``new`` more."""
    try:
        return distributed.distributed_c10d._get_default_store().add('repvit_mm/errors', new)
    except RuntimeError:  # the process that keeps the count has ended: it has failed
        return 1 + new


def _local_rank() -> int:
    return int(os.environ.get('LOCAL_RANK', 0))
