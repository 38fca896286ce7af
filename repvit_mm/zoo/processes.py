"""Runs the tools as subprocesses: shows their progress, logs their output, and stops them with the parent."""
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..errors import UserError

#: Progress lines in mmengine's log, shown without date and details.
_PROGRESS = re.compile(r'INFO - ((?:Epoch|Iter)\(\w+\).*)')
_DETAILS = re.compile(r'  (?:lr|base_lr|data_time|grad_norm|memory|acc|loss_\w+|coco/\w+_mAP_(?:75|s|m|l)): \S+')
_INTERRUPTED = 130
#: Seconds to wait for a process to end after each signal.
_PATIENCE = 10


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
