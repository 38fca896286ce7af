"""Exported files behind one call, and the metadata at the end of those whose format has no place for them."""
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError
from .prepare import Subject

#: Name of each input -> array; returns name of each output -> array.
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
#: The entry of the zip archive at the end of a file; engines do not read that far.
METADATA = 'metadata.json'


class ExportedFile(NamedTuple):
    """A file that is ready to run.

    Attributes:
        path: Its path.
        run: Runs it. A file for one image takes the images of a batch in turn.
        shape: Shape of the input ``image``: batch, channels, height, width; None for any.
        metadata: Its metadata, see :func:`repvit_mm.export.prepare.describe`.
    """

    path: Path
    run: Run
    shape: tuple[int | None, ...]
    metadata: dict[str, Any]


def one_by_one(run: Run) -> Run:
    """Let a file that takes one image take a batch."""
    def run_all(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = [run({**inputs, 'image': image[None]}) for image in inputs['image']]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    return run_all


def append_metadata(path: Path, subject: Subject) -> None:
    """End a file with its metadata, the shape of its image and the names of its outputs."""
    metadata = {**subject.metadata, 'shape': list(subject.inputs['image'].shape), 'outputs': subject.outputs}
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(METADATA, json.dumps(metadata))


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata written by :func:`append_metadata`.

    Raises:
        ExportError: If there is no metadata.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(METADATA))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ExportError(f'{path} has no metadata: it was not written by the exporters of repvit_mm') from error


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata for a format that stores strings: all but strings as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def parse_metadata(entries: Mapping[str, str]) -> dict[str, Any]:
    """Read the metadata converted by :func:`as_text`."""
    metadata = {}
    for key, value in entries.items():
        try:
            metadata[key] = json.loads(value)
        except (TypeError, ValueError):
            metadata[key] = value
    return metadata
