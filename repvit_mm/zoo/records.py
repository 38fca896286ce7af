"""Records of measurements, so that an interrupted reproduction can be continued."""
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..io.files import make_folder, write_json


class Record(NamedTuple):
    """Measured figures.

    Attributes:
        figures: Name -> figure.
        seconds: Duration of the measurement.
    """

    figures: dict[str, float]
    seconds: float


class Records:
    """Records in a folder, one file for each measurement.

    Args:
        folder: The folder; created if missing.
        fresh: Whether to ignore the records of earlier runs.

    Raises:
        ConfigError: If the folder cannot be created.
    """

    def __init__(self, folder: str | Path, fresh: bool = False):
        self.folder, self.fresh = make_folder(folder), fresh
        self._done: set[str] = set()

    def get(self, name: str, inputs: Mapping[str, Any], measure: Callable[[], dict[str, float]]) -> Record:
        """Return the record of a measurement, or measure if there is none with the same inputs.

        Args:
            name: Name of the measurement.
            inputs: What the figures depend on.
            measure: Returns the figures. If it raises, nothing is written.
        """
        path = self.folder / f'{name}.json'
        inputs = json.loads(json.dumps(inputs))
        # With fresh, too, rows share what this run has measured itself.
        if (not self.fresh or name in self._done) and (record := _read(path, inputs)) is not None:
            return record
        start = time.perf_counter()
        figures = measure()
        seconds = time.perf_counter() - start
        write_json(path, {'inputs': inputs, 'figures': figures, 'seconds': round(seconds, 3)})
        self._done.add(name)
        return Record(figures, seconds)


def _read(path: Path, inputs: dict[str, Any]) -> Record | None:
    try:
        content = json.loads(path.read_text())
        if content['inputs'] == inputs:
            return Record(dict(content['figures']), float(content['seconds']))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        pass
    return None
