"""Measuring the accuracy of published models with the project's own tools, each in a process of its own."""
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from rich.console import Console

from ..checkpoints import fetch
from ..checkpoints.release import name_of
from ..engine.configs import load_config
from ..engine.data import expected_paths, move_data_root
from ..engine.processes import run_tool
from ..errors import ConfigError, UserError
from ..toolboxes.datasets import datasets_of
from ..version import __version__
from .rows import ROOT, TABLES, PublishedResult, Row


class DataSet(NamedTuple):
    """A data set, and the tool that evaluates a model on it.

    Attributes:
        dataset: Its name in the metafiles.
        default: Its default folder.
        tool: The tool.
    """

    dataset: str
    default: str
    tool: str


#: (table, name on the command line) -> data set.
DATA_SETS: dict[tuple[str, str], DataSet] = {
    ('imagenet', 'imagenet'): DataSet('ImageNet-1k', 'data/imagenet', 'test.py'),
    ('coco', 'coco'): DataSet('COCO', 'data/coco', 'test.py'),
    ('ade20k', 'ade20k'): DataSet('ADE20K', 'data/ade/ADEChallengeData2016', 'test.py'),
    ('sam', 'coco'): DataSet('COCO', 'data/coco', 'sam_eval_coco.py'),
    ('sam', 'bsds500'): DataSet('BSDS500', 'data/BSDS500', 'sam_eval_edges.py'),
}


@dataclass(frozen=True)
class Settings:
    """Where data and weights are, and how to run.

    Attributes:
        data_roots: Name of a data set -> folder, instead of the default.
        weights: Folder of the released files; torch's cache if None.
        download: Whether to download missing released weights.
        gpus: Processes for each test.
        boxes: A detector's results on COCO, as prompts for RepViT-SAM.
        options: ``KEY=VALUE`` overrides of the configs.
    """

    data_roots: dict[str, Path] = field(default_factory=dict)
    weights: Path | None = None
    download: bool = False
    gpus: int = 1
    boxes: Path | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, root in self.data_roots.items():
            if not root.is_dir():
                raise ConfigError(f'--data-root {name}={root}: the folder does not exist')
        if self.weights is not None and not self.weights.is_dir():
            raise ConfigError(f'--weights {self.weights}: the folder does not exist')
        if self.boxes is not None and not self.boxes.is_file():
            raise ConfigError(f'--boxes {self.boxes}: the file does not exist')


class Unavailable(Exception):
    """A row cannot be measured because something is missing; the message says what."""


class Evaluation(NamedTuple):
    """A run of a tool that measures figures of a row.

    Attributes:
        row: The model.
        name: Name of the data set on the command line.
        results: The published figures to measure.
        data_root: Folder of the data set.
        weights: File of the weights.
    """

    row: Row
    name: str
    results: tuple[PublishedResult, ...]
    data_root: Path
    weights: Path


def evaluation_of(row: Row, name: str, settings: Settings) -> Evaluation:
    """Prepare the evaluation of a row on a data set.

    Raises:
        Unavailable: If toolbox, data or weights are missing.
    """
    data = DATA_SETS[row.table, name]
    toolbox = TABLES[row.table].toolbox
    if find_spec(toolbox) is None:
        raise Unavailable(f'{toolbox} is not installed')
    root = settings.data_roots.get(name, Path(data.default))
    if not root.is_dir():
        raise Unavailable(f'no data: {root} does not exist; --data-root {name}=DIR')
    if data.tool == 'sam_eval_coco.py' and settings.boxes is None:
        raise Unavailable("no prompts: the published figures are for a detector's boxes; --boxes FILE")
    results = tuple(result for result in row.results if result.dataset == data.dataset)
    return Evaluation(row, name, results, root.resolve(), find_weights(row, settings).resolve())


def find_weights(row: Row, settings: Settings) -> Path:
    """The file of a row's weights.

    Raises:
        Unavailable: If it is missing.
        CheckpointError: If the download fails.
    """
    released = row.weights.file if row.weights else ''
    folder = settings.weights or Path(torch.hub.get_dir(), 'checkpoints')
    names = [name for name in (released, f'{row.name}.pth') if name]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if released and settings.download:
        return fetch(f'repvit://{name_of(released)}')
    hint = '--weights DIR or --download' if released else '--weights DIR; they are not released'
    raise Unavailable(f'no weights: {" or ".join(names)} is not in {folder}; {hint}')


def inputs_of(evaluation: Evaluation, settings: Settings) -> dict[str, Any]:
    """What the figures depend on: if it has not changed, an earlier run's figures are reused."""
    row, data = evaluation.row, DATA_SETS[evaluation.row.table, evaluation.name]
    inputs = {'weights': _stamp(evaluation.weights), 'options': list(settings.options),
              'versions': {'repvit-mm': __version__, 'torch': torch.__version__}}
    if data.tool == 'test.py':
        cfg = load_config(row.config_path)
        move_data_root(cfg, str(evaluation.data_root))
        paths = [Path(path) for _, dataset in datasets_of(cfg, ['test_dataloader']) for path in expected_paths(dataset)]
        return {**inputs, 'config': _digest(cfg), 'data': [_stamp(path) for path in paths]}
    boxes = [settings.boxes] if data.tool == 'sam_eval_coco.py' else []
    return {**inputs, 'data': [_stamp(path) for path in (evaluation.data_root, *boxes)]}


def _digest(cfg: Config) -> str:
    return hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()).hexdigest()


def _stamp(path: Path) -> list[Any]:
    if not path.exists():
        return [str(path)]
    status = path.stat()
    return [str(path), status.st_size if path.is_file() else None, status.st_mtime_ns]


def measure_accuracy(evaluation: Evaluation, settings: Settings, log: Path, console: Console) -> dict[str, float]:
    """Run the tool of an evaluation.

    Args:
        evaluation: The evaluation.
        settings: Its settings.
        log: File for the output of the tool.
        console: Where to show its progress.

    Returns:
        Metric -> figure, in the units of the table.

    Raises:
        UserError: If the tool fails or a figure is missing.
    """
    tool, arguments = _command(evaluation, settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.run.', dir=log.parent) as folder:
        is_test = DATA_SETS[evaluation.row.table, evaluation.name].tool == 'test.py'
        run_tool(ROOT / 'tools' / tool, [*arguments, '--work-dir' if is_test else '--out', folder], log, console)
        # mmengine writes TIME/TIME.json into the work directory, the other tools metrics.json.
        files = sorted(Path(folder).glob('*/*.json' if is_test else 'metrics.json'))
        if not files:
            raise UserError(f'{tool} reported no figures; its output is in {log}')
        measured = json.loads(files[-1].read_text())
    missing = [result.metric.key for result in evaluation.results if result.metric.key not in measured]
    if missing:
        raise UserError(f'{tool} reported {", ".join(measured)}, but not {", ".join(missing)}; its output is in {log}')
    return {result.name: result.metric.scale * measured[result.metric.key] for result in evaluation.results}


def _command(evaluation: Evaluation, settings: Settings) -> tuple[str, Sequence[str | Path]]:
    data = DATA_SETS[evaluation.row.table, evaluation.name]
    if data.tool == 'test.py':
        arguments = [evaluation.row.config_path, evaluation.weights]
        options = ['--data-root', evaluation.data_root,
                   *(['--cfg-options', *settings.options] if settings.options else [])]
        if settings.gpus > 1:
            return 'dist_test.sh', [*arguments, str(settings.gpus), *options]
        return data.tool, [*arguments, *options]
    boxes = ['--boxes', settings.boxes] if data.tool == 'sam_eval_coco.py' else []
    return data.tool, ['--data-root', evaluation.data_root, '--arch', evaluation.row.arch,
                       '--checkpoint', evaluation.weights, *boxes]
