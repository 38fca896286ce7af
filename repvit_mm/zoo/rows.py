"""The published results, a row a model, as the ``metafile.yml`` beside the configs holds them."""
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import load

from ..errors import ConfigError
from .metrics import METRICS, Metric

#: Configs, tools and the index of the metafiles: a wheel carries them there, a checkout links to its own.
ROOT = Path(__file__).resolve().parents[1] / '.mim'


class Table(NamedTuple):
    """One of the published tables.

    Attributes:
        folder: Of its configs and its metafile.
        title: What it is about.
        toolbox: The package that its models need.
    """

    folder: str
    title: str
    toolbox: str


TABLES: dict[str, Table] = {
    'imagenet': Table('classification', 'ImageNet-1K', 'mmpretrain'),
    'coco': Table('detection', 'Mask R-CNN on COCO val2017', 'mmdet'),
    'ade20k': Table('segmentation', 'Semantic FPN on ADE20K val', 'mmseg'),
    'sam': Table('sam', 'RepViT-SAM, zero-shot', 'segment_anything'),
}


class PublishedLatency(NamedTuple):
    """A published time.

    Attributes:
        value: In milliseconds for one image.
        hardware: The device.
        resolution: Height and width of the image, in pixels.
        part: Of the model; empty for all of it.
    """

    value: float
    hardware: str
    resolution: tuple[int, int]
    part: str = ''


class PublishedResult(NamedTuple):
    """A published accuracy.

    Attributes:
        dataset: What it was measured on.
        name: Of the metric.
        value: As the table prints it.
        metric: Its precision, and what measures it.
    """

    dataset: str
    name: str
    value: float
    metric: Metric


@dataclass(frozen=True)
class Row:
    """A published model.

    Attributes:
        name: Of the model and of its config.
        table: A key of :data:`TABLES`.
        arch: A key of :data:`repvit_mm.archs.ARCHS`.
        config: Path of the config below :data:`ROOT`.
        parameters: Of the fused model.
        training_parameters: Before fusion.
        macs: Multiply-adds of the fused model.
        resolution: Height and width of the image that the multiply-adds are for.
        published_size: What the paper prints: ``'Parameters (M)'`` and ``'MACs (G)'``; empty where it gives none.
        latencies: Published times.
        results: Published accuracies.
        conventions: What parameters and multiply-adds include, in words.
        source: Address of the paper.
        weights: Address of the released weights; None where there are none.
        sha256: Of the weights, where it is known.
    """

    name: str
    table: str
    arch: str
    config: str
    parameters: int
    training_parameters: int
    macs: int
    resolution: tuple[int, int]
    published_size: Mapping[str, float]
    latencies: tuple[PublishedLatency, ...]
    results: tuple[PublishedResult, ...]
    conventions: Mapping[str, str]
    source: str
    weights: str | None = None
    sha256: str | None = None

    @property
    def config_path(self) -> Path:
        """Where the config is."""
        return ROOT / self.config

    @property
    def epochs(self) -> int:
        """Length of a classifier's training."""
        return int(self.name.rpartition('_')[2].removesuffix('e'))

    @property
    def distilled(self) -> bool:
        """Whether a classifier was trained with a teacher."""
        return '_distill_' in self.name

    def result(self, name: str) -> float | None:
        """The published figure of a metric, None if there is none."""
        return next((result.value for result in self.results if result.name == name), None)


def load_rows(root: Path = ROOT) -> list[Row]:
    """Read all metafiles that the index names.

    Args:
        root: Folder of ``model-index.yml``.

    Raises:
        ConfigError: If one lacks something.
    """
    found = {}
    for path in load(root / 'model-index.yml')['Import']:
        folder = Path(path).parent.name
        table = next((name for name, table in TABLES.items() if table.folder == folder), None)
        if table is None:
            raise ConfigError(f'{root / path}: no table is known for the configs in {folder}')
        found[table] = list(_rows_of(root / path, table))
    return [row for table in TABLES for row in found.get(table, [])]


def _rows_of(path: Path, table: str) -> Iterator[Row]:
    content = load(path)
    collections = {collection['Name']: collection for collection in content['Collections']}
    for entry in content['Models']:
        try:
            yield _row(entry, collections[entry['In Collection']], table)
        except KeyError as error:
            raise ConfigError(f'{path}: {entry.get("Name", "a model without a name")} lacks {error}, or it is not '
                              'known') from error


def _row(entry: Mapping[str, Any], collection: Mapping[str, Any], table: str) -> Row:
    metadata = entry['Metadata']
    arch = re.search(r'repvit_(m\d(?:_\d)?)', entry['Name'])
    if arch is None:
        raise KeyError('the architecture in its name')
    return Row(
        name=entry['Name'], table=table, arch=arch[1], config=entry['Config'], parameters=metadata['Parameters'],
        training_parameters=metadata['Training Parameters'], macs=metadata['FLOPs'],
        resolution=tuple(metadata['Resolution']), published_size=metadata.get('Published Size', {}),
        latencies=tuple(
            PublishedLatency(item['value'], item['hardware'], tuple(item['resolution']), item.get('part', ''))
            for item in metadata.get('inference time (ms/im)', [])),
        results=tuple(
            PublishedResult(result['Dataset'], name, value, METRICS[table, result['Dataset'], name])
            for result in entry['Results'] for name, value in result['Metrics'].items()),
        conventions=collection['Conventions'], source=entry.get('Paper', collection['Paper'])['URL'],
        weights=entry.get('Weights'), sha256=metadata.get('SHA-256'))
