"""Read the scalars that mmengine logs during a run."""
import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import read_text


def read_scalars(path: Path) -> list[dict[str, Any]]:
    """Read the losses, learning rates and metrics of a run.

    Args:
        path: A ``scalars.json`` of mmengine, or a work directory. A resumed training has several logs; where they
            overlap, the later one counts.

    Returns:
        A dict for each line, in order. ``step`` is the iteration of a training line, and the epoch or iteration of a
        validation line.

    Raises:
        UserError: If the log is missing or damaged.
    """
    logs = sorted(path.glob('*/vis_data/scalars.json')) if path.is_dir() else [path]
    if not logs:
        raise UserError(f'{path} is not the work directory of a training: it has no TIME/vis_data/scalars.json')
    records: dict[tuple[bool, Any], dict[str, Any]] = {}
    for log in logs:
        for number, line in enumerate(read_text(log).splitlines(keepends=True), 1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f'it is a {type(record).__name__}')
            except (ValueError, RecursionError) as error:
                if not line.endswith('\n'):  # cut off when the process was killed
                    continue
                raise UserError(f'{log}, line {number}: not JSON, or no record; expected a scalars.json of '
                                'mmengine') from error
            records[is_training(record), record.get('step', record.get('iter'))] = record
    return list(records.values())


def is_training(record: dict[str, Any]) -> bool:
    """Whether a line is from training, not validation."""
    return 'iter' in record or 'loss' in record
