"""What was measured, kept such that a later run goes on where an earlier one ended."""
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import write_json


class Record(NamedTuple):
    """Figures that were measured.

    Attributes:
        figures: Name -> figure.
        seconds: That it took.
        reused: Whether an earlier run measured them.
    """

    figures: dict[str, float]
    seconds: float
    reused: bool


class Records:
    """Records in a folder, a file for each measurement.

    Args:
        folder: Is made if need be.
        fresh: Whether to measure again what is there.

    Raises:
        UserError: If the folder cannot be made.
    """

    def __init__(self, folder: str | Path, fresh: bool = False):
        self.folder, self.fresh = Path(folder), fresh
        self._done: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{self.folder} cannot be made: {error.strerror}') from error

    def get(self, name: str, inputs: Mapping[str, Any], measure: Callable[[], dict[str, float]]) -> Record:
        """The record of this name if its inputs are the same, else a new one; it is written whole or not at all.

        Args:
            name: Of the measurement.
            inputs: What the figures depend on.
            measure: Gives the figures; what it raises is passed on, and nothing is written.
        """
        path = self.folder / f'{name}.json'
        inputs = json.loads(json.dumps(inputs))
        # What this run has measured itself is fresh enough.
        if (not self.fresh or name in self._done) and (record := _read(path, inputs)) is not None:
            return record
        start = time.perf_counter()
        figures = measure()
        seconds = time.perf_counter() - start
        write_json(path, {'inputs': inputs, 'figures': figures, 'seconds': round(seconds, 3)})
        self._done.add(name)
        return Record(figures, seconds, reused=False)


def _read(path: Path, inputs: dict[str, Any]) -> Record | None:
    try:
        content = json.loads(path.read_text())
        if content['inputs'] == inputs:
            return Record(dict(content['figures']), float(content['seconds']), reused=True)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: as if it were not there
        pass
    return None
