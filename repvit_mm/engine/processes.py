"""Processes: those of a distributed run, which report an error once, and tools that are run as subprocesses."""
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from torch import distributed

from ..errors import ConfigError, UserError

#: Progress lines in mmengine's log, shown without date and details.
_PROGRESS = re.compile(r'INFO - ((?:Epoch|Iter)\(\w+\).*)')
_DETAILS = re.compile(r'  (?:lr|base_lr|data_time|grad_norm|memory|acc|loss_\w+|coco/\w+_mAP_(?:75|s|m|l)): \S+')
_INTERRUPTED = 130
#: Launcher -> a variable that it sets for its processes, and how to start them.
_LAUNCHED = {
    'pytorch': ('RANK', 'tools/dist_train.sh, tools/dist_test.sh or torchrun'),
    'slurm': ('SLURM_PROCID', 'tools/slurm_train.sh, tools/slurm_test.sh or srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
#: Seconds to wait for a process to end after each signal.
_PATIENCE = 10


def check_launcher(launcher: str) -> None:
    """Raise a ConfigError unless this process was started by ``launcher``."""
    if launcher in _LAUNCHED and _LAUNCHED[launcher][0] not in os.environ:
        raise ConfigError(f'--launcher {launcher} is for processes that were started by it: use '
                          f'{_LAUNCHED[launcher][1]}, or leave it out to run one process')


@contextmanager
def one_report() -> Iterator[None]:
    """Let one process of a run report a user's error, and all end.

    Once the processes are connected, the first that meets an error reports it, and processes that fail because a
    partner is gone stay silent. Before, the first process of each machine reports.
    """
    try:
        yield
    except UserError:
        if not _reports():
            raise SystemExit(1) from None
        raise
    except KeyboardInterrupt:
        if local_rank() != 0:
            raise SystemExit(130) from None
        raise
    except RuntimeError:
        if distributed.is_initialized() and _errors() > 0:
            raise SystemExit(1) from None
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _reports() -> bool:
    return _errors(new=1) == 1 if distributed.is_initialized() else local_rank() == 0


def _errors(new: int = 0) -> int:
    """The number of processes that have failed so far, with ``new`` more."""
    try:
        return distributed.distributed_c10d._get_default_store().add('repvit_mm/errors', new)
    except RuntimeError:  # the process that keeps the count has ended: it has failed
        return 1 + new


def local_rank() -> int:
    """The number of this process on its machine; a ConfigError if the environment has none."""
    text = os.environ.get('LOCAL_RANK', '0')
    if not text.isdecimal():
        raise ConfigError(f'LOCAL_RANK={text} must be a whole number; unset it to run one process')
    return int(text)


def run_tool(tool: Path, arguments: Sequence[str | Path], log: Path, console: Console) -> None:
    """Run a tool and wait for it.

    Args:
        tool: A Python or bash script that reports errors like :func:`repvit_mm.errors.run_cli`.
        arguments: Its arguments.
        log: File that its output is appended to.
        console: Where to show its progress.

    Raises:
        UserError: If the tool fails.
        KeyboardInterrupt: If it was interrupted.
    """
    command = ['bash' if tool.suffix == '.sh' else sys.executable, str(tool), *map(str, arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    last, mistake = '', ''
    with log.open('a') as file, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
            env={**os.environ, 'PYTHON': sys.executable, 'PYTHONUNBUFFERED': '1'}) as process:
        try:
            for line in process.stdout:
                file.write(line)
                last = line.strip() or last
                mistake = line.removeprefix('error: ').strip() if line.startswith('error: ') else mistake
                if found := _PROGRESS.search(line):
                    console.print(' ', _DETAILS.sub('', found[1]), highlight=False, markup=False, soft_wrap=True)
            status = process.wait()
        except BaseException:
            _stop(process)
            raise
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError(mistake or f'{tool.name} failed with status {status}: {last}; its output is in {log}')


def _stop(process: subprocess.Popen) -> None:
    """Wait for a process that may have received Ctrl-C itself, and stop it if it continues."""
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number:
            process.send_signal(number)
        try:
            process.wait(_PATIENCE)
            return
        except subprocess.TimeoutExpired:
            continue
