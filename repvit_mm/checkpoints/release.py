"""The released weights, from the ``metafile.yml`` files beside the configs."""
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mmengine.fileio import load

#: Configs, tools and the index of the metafiles: included in a wheel, linked in a checkout.
ROOT = Path(__file__).resolve().parents[1] / '.mim'


class Published(NamedTuple):
    """The released weights of a model.

    Attributes:
        url: Their address in the authors' release.
        config: The config of their model.
        metrics: ``'Metric, data set'`` -> published figure.
        sha256: SHA-256 of the file, in hexadecimal; None if it is not recorded.
    """

    url: str
    config: Path
    metrics: Mapping[str, float]
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Name of the file."""
        return Path(urlsplit(self.url).path).name


def name_of(file: str) -> str:
    """The name after ``repvit://`` of a released file: its file name without ``repvit_`` and suffix."""
    return Path(file).stem.removeprefix('repvit_')


@cache
def published() -> dict[str, Published]:
    """Read the released weights: name after ``repvit://`` -> weights."""
    entries = [entry for path in load(ROOT / 'model-index.yml')['Import'] for entry in load(ROOT / path)['Models']]
    return {name_of(entry['Weights']): Published(
        entry['Weights'], ROOT / entry['Config'],
        {f'{metric}, {result["Dataset"]}': value
         for result in entry['Results'] for metric, value in result['Metrics'].items()},
        entry['Metadata'].get('SHA-256')) for entry in entries if 'Weights' in entry}
