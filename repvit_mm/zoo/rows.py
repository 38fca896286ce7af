"""The published results, one row for each model, from the ``metafile.yml`` files beside the configs."""
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import load

from ..checkpoints.download import ROOT, Published, name_of, published
from ..errors import ConfigError


class Table(NamedTuple):
    """One of the published tables.

    Attributes:
        folder: Folder of its configs and its metafile.
        toolbox: Package that its models need.
    """

    folder: str
    toolbox: str


TABLES: dict[str, Table] = {
    'imagenet': Table('classification', 'mmpretrain'), 'coco': Table('detection', 'mmdet'),
    'ade20k': Table('segmentation', 'mmseg'), 'sam': Table('sam', 'segment_anything'),
}


class Metric(NamedTuple):
    """A column of a published table.

    Attributes:
        decimals: Number of printed decimals.
        key: Name of the metric in the tool that measures it; None without such a tool.
        scale: Factor from the tool's figure to the table's.
    """

    decimals: int
    key: str | None = None
    scale: float = 1.


def _coco(kind: str, name: str) -> dict[str, Metric]:
    return {f'{kind} AP{suffix}': Metric(1, f'coco/{name}_mAP{key}', 100.)
            for suffix, key in (('', ''), ('50', '_50'), ('75', '_75'))}


#: (table, data set, metric in the metafile) -> column.
METRICS: dict[tuple[str, str, str], Metric] = {
    ('imagenet', 'ImageNet-1k', 'Top 1 Accuracy'): Metric(1, 'accuracy/top1'),
    **{('coco', 'COCO', name): metric for name, metric in {**_coco('box', 'bbox'), **_coco('mask', 'segm')}.items()},
    ('ade20k', 'ADE20K', 'mIoU'): Metric(1, 'mIoU'),
    ('ade20k', 'ADE20K', 'mAcc'): Metric(2, 'mAcc'),
    ('ade20k', 'ADE20K', 'aAcc'): Metric(2, 'aAcc'),
    ('sam', 'COCO', 'mask AP'): Metric(1, 'AP'),
    ('sam', 'COCO', 'mask AP small'): Metric(1, 'AP_S'),
    ('sam', 'COCO', 'mask AP medium'): Metric(1, 'AP_M'),
    ('sam', 'COCO', 'mask AP large'): Metric(1, 'AP_L'),
    **{('sam', 'BSDS500', name): Metric(3, name.lower()) for name in ('ODS', 'OIS', 'AP')},
    ('sam', 'SegInW', 'mean AP'): Metric(1, 'mean AP'),
    **{('sam', 'DAVIS 2017', name): Metric(1) for name in ('J&F', 'J', 'F')},
    ('sam', 'UVO', 'AR100'): Metric(1),
    ('sam', 'DUTS', 'M'): Metric(3, 'MAE'),
    ('sam', 'MVTec', 'Fp'): Metric(2, 'mean F1'),
}


class PublishedResult(NamedTuple):
    """A published accuracy.

    Attributes:
        dataset: Name of the data set.
        name: Name of the metric.
        value: Value as printed in the table.
        metric: The column.
    """

    dataset: str
    name: str
    value: float
    metric: Metric


@dataclass(frozen=True)
class Row:
    """A published model.

    Attributes:
        name: Name of the model and of its config.
        table: A key of :data:`TABLES`.
        arch: A key of :data:`repvit_mm.archs.ARCHS`.
        config: Path of the config, relative to :data:`ROOT`.
        parameters: Parameters of the fused model.
        training_parameters: Parameters before fusion.
        macs: Multiply-adds of the fused model.
        resolution: Height and width of the image for the multiply-adds.
        published_size: ``'Parameters (M)'`` and ``'MACs (G)'`` as printed in the paper; empty if it gives none.
        latencies: Published latencies of one image in milliseconds; the metafile has the hardware.
        throughput: Images per second on a GPU as published, or None.
        results: Published accuracies.
        conventions: What parameters and multiply-adds include.
        weights: The released weights, or None.
        hub: Name of the weights in timm's format, ``hf://OWNER/REPO``, or None.
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
    latencies: tuple[float, ...]
    throughput: int | None
    results: tuple[PublishedResult, ...]
    conventions: Mapping[str, str]
    weights: Published | None = None
    hub: str | None = None

    @property
    def config_path(self) -> Path:
        """Absolute path of the config."""
        return ROOT / self.config

    @property
    def epochs(self) -> int:
        """Epochs of a classifier's training."""
        return int(self.name.rpartition('_')[2].removesuffix('e'))

    @property
    def distilled(self) -> bool:
        """Whether a classifier was trained with a teacher."""
        return '_distill_' in self.name

    def result(self, name: str) -> float | None:
        """The published figure of a metric, or None."""
        return next((result.value for result in self.results if result.name == name), None)


def load_rows(root: Path = ROOT) -> list[Row]:
    """Read all metafiles of the index.

    Args:
        root: Folder of ``model-index.yml``.

    Raises:
        ConfigError: If a metafile is incomplete.
    """
    tables = {table.folder: name for name, table in TABLES.items()}
    return [row for path in load(root / 'model-index.yml')['Import']
            for row in _rows_of(root / path, tables[Path(path).parent.name])]


def _rows_of(path: Path, table: str) -> Iterator[Row]:
    content = load(path)
    collections = {collection['Name']: collection for collection in content['Collections']}
    for entry in content['Models']:
        try:
            yield _row(entry, collections[entry['In Collection']], table)
        except KeyError as error:
            raise ConfigError(f'{path}: {entry.get("Name", "a model without a name")} lacks {error}, or its value is '
                              'unknown') from error


def _row(entry: Mapping[str, Any], collection: Mapping[str, Any], table: str) -> Row:
    metadata = entry['Metadata']
    return Row(
        name=entry['Name'], table=table, arch=re.search(r'repvit_(m\d(?:_\d)?)', entry['Name'])[1],
        config=entry['Config'], parameters=metadata['Parameters'],
        training_parameters=metadata['Training Parameters'], macs=metadata['FLOPs'],
        resolution=tuple(metadata['Resolution']), published_size=metadata.get('Published Size', {}),
        latencies=tuple(item['value'] for item in metadata.get('inference time (ms/im)', [])),
        throughput=metadata.get('Throughput (im/s)'),
        results=tuple(
            PublishedResult(result['Dataset'], name, value, METRICS[table, result['Dataset'], name])
            for result in entry['Results'] for name, value in result['Metrics'].items()),
        conventions=collection['Conventions'],
        weights=published()[name_of(entry)] if 'Weights' in entry else None, hub=entry.get('Hub'))
