"""Recomputing the published figures of a row: counted here, or measured by the project's tools on data and weights."""
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from ..analysis import count
from ..checkpoints import fetch
from ..errors import ConfigError, UserError
from ..export.tracing import quiet
from ..models.inference import build_inference_model
from .processes import run_tool
from .rows import ROOT, TABLES, Row


class Evaluation(NamedTuple):
    """A data set, and the tool that evaluates a model on it.

    Attributes:
        dataset: Name of the data set in the metafiles.
        default: Default folder.
        tool: The tool, with its first arguments.
        needs_boxes: Whether the prompts are a detector's boxes.
    """

    dataset: str
    default: str
    tool: tuple[str, ...]
    needs_boxes: bool = False


#: (table, name on the command line) -> evaluation.
EVALUATIONS: dict[tuple[str, str], Evaluation] = {
    ('imagenet', 'imagenet'): Evaluation('ImageNet-1k', 'data/imagenet', ('test.py',)),
    ('coco', 'coco'): Evaluation('COCO', 'data/coco', ('test.py',)),
    ('ade20k', 'ade20k'): Evaluation('ADE20K', 'data/ade/ADEChallengeData2016', ('test.py',)),
    ('sam', 'coco'): Evaluation('COCO', 'data/coco', ('sam_eval.py', 'coco'), needs_boxes=True),
    ('sam', 'bsds500'): Evaluation('BSDS500', 'data/BSDS500', ('sam_eval.py', 'bsds500')),
    ('sam', 'seginw'): Evaluation('SegInW', 'data/seginw', ('sam_eval.py', 'seginw'), needs_boxes=True),
    ('sam', 'duts'): Evaluation('DUTS', 'data/DUTS/DUTS-TE', ('sam_eval.py', 'duts')),
    ('sam', 'mvtec'): Evaluation('MVTec', 'data/mvtec', ('sam_eval.py', 'mvtec'), needs_boxes=True),
}


@dataclass(frozen=True)
class Settings:
    """Data, weights and options.

    Attributes:
        out: Folder of the logs.
        data_roots: Name of a data set -> folder, instead of the default.
        boxes: Name of a data set -> a detector's boxes, as prompts for RepViT-SAM.
        weights: Folder of the released files; torch's cache if None.
        download: Whether to download missing released weights.
        gpus: Processes for each test.
        options: ``KEY=VALUE`` overrides of the configs.
    """

    out: Path
    data_roots: dict[str, Path] = field(default_factory=dict)
    boxes: dict[str, Path] = field(default_factory=dict)
    weights: Path | None = None
    download: bool = False
    gpus: int = 1
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = {f'--data-root {name}=': path for name, path in self.data_roots.items()}
        given |= {f'--boxes {name}=': path for name, path in self.boxes.items()}
        given |= {'--weights ': self.weights} if self.weights else {}
        for option, path in given.items():
            if not path.exists():
                raise ConfigError(f'{option}{path} does not exist')


class Unavailable(Exception):
    """Data, weights or packages for a measurement are missing."""


@dataclass
class Figure:
    """A published figure, and the measured one.

    Attributes:
        model: Name of the row.
        dataset: Name of the data set; empty for sizes.
        name: Name of the figure.
        published: The value in the metafile.
        decimals: Decimals in the paper's table; None for a count.
        measured: None if it was not measured.
        note: Reason why it was not measured.
    """

    model: str
    dataset: str
    name: str
    published: float
    decimals: int | None = None
    measured: float | None = None
    note: str = ''


def reproduce(row: Row, settings: Settings, console: Console) -> tuple[list[Figure], list[str]]:
    """Measure the figures of a row as far as possible.

    Returns:
        All figures, and the errors, one line each.
    """
    names = [name for table, name in EVALUATIONS if table == row.table]
    groups = {EVALUATIONS[row.table, name].dataset: lambda name=name: evaluate_row(row, name, settings, console)
              for name in names}
    figures, failures, measured, notes = figures_of(row), [], {}, {}
    for dataset, measure in {'': lambda: count_row(row), **groups}.items():
        try:
            measured |= {(dataset, name): value for name, value in measure().items()}
        except Unavailable as reason:
            notes[dataset] = str(reason)
        except Exception as error:  # a bug in one row must not stop the others
            failures.append(str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}')
            notes[dataset] = f'failed: {failures[-1]}'
    for figure in figures:
        figure.measured = measured.get((figure.dataset, figure.name))
        if figure.measured is None:
            figure.note = notes.get(figure.dataset, f'{figure.dataset} needs a tracker, see docs/sam.md')
    return figures, failures


def figures_of(row: Row) -> list[Figure]:
    """The published figures of a row: sizes and accuracies."""
    counts = {'parameters': row.parameters, 'training parameters': row.training_parameters, 'MACs': row.macs}
    return [*(Figure(row.name, '', name, value) for name, value in counts.items()),
            *(Figure(row.name, '', name, value, 1) for name, value in row.published_size.items()),
            *(Figure(row.name, result.dataset, result.name, result.value, result.metric.decimals)
              for result in row.results)]


def count_row(row: Row) -> dict[str, float]:
    """Parameters before and after fusion, and multiply-adds after it, exact and as the paper prints them.

    Raises:
        Unavailable: If the toolbox is not installed.
    """
    _require_toolbox(row)
    with quiet():  # building a model logs and warns about its training
        # The config of SAM is that of the distillation.
        model = build_inference_model(f'sam_{row.arch}' if row.table == 'sam' else row.config_path)
    training, fused = (count(model, row.resolution, fused=fused, depth=0) for fused in (False, True))
    return {'parameters': fused.parameters, 'training parameters': training.parameters, 'MACs': fused.macs,
            'Parameters (M)': fused.parameters / 1e6, 'MACs (G)': fused.macs / 1e9}


def _require_toolbox(row: Row) -> None:
    if find_spec(toolbox := TABLES[row.table].toolbox) is None:
        raise Unavailable(f'{toolbox} is not installed')


def evaluate_row(row: Row, name: str, settings: Settings, console: Console) -> dict[str, float]:
    """Run the tool that evaluates a row on a data set, in its own process.

    Args:
        row: The row.
        name: Name of the data set in :data:`EVALUATIONS`.
        settings: Data, weights and options.
        console: Where to show the tool's progress.

    Returns:
        Metric -> figure, in the units of the table.

    Raises:
        Unavailable: If toolbox, data, boxes or weights are missing.
        UserError: If the tool fails or a figure is missing.
    """
    evaluation = EVALUATIONS[row.table, name]
    log = settings.out / 'logs' / f'{row.name}.{name}.log'
    tool, *arguments = _command(row, name, settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.run.', dir=log.parent) as folder:
        is_test = row.table != 'sam'
        run_tool(ROOT / 'tools' / tool, [*arguments, '--work-dir' if is_test else '--out', folder], log, console)
        # mmengine writes TIME/TIME.json into the work directory, the other tools metrics.json.
        files = sorted(Path(folder).glob('*/*.json' if is_test else 'metrics.json'))
        measured = json.loads(files[-1].read_text()) if files else {}
    results = [result for result in row.results if result.dataset == evaluation.dataset]
    if missing := [result.metric.key for result in results if result.metric.key not in measured]:
        raise UserError(f'{tool} did not report {", ".join(missing)}; its output is in {log}')
    return {result.name: result.metric.scale * measured[result.metric.key] for result in results}


def _command(row: Row, name: str, settings: Settings) -> Sequence[str | Path]:
    """The tool and its arguments."""
    _require_toolbox(row)
    evaluation = EVALUATIONS[row.table, name]
    root = settings.data_roots.get(name, Path(evaluation.default))
    if not root.is_dir():
        raise Unavailable(f'no data: {root} does not exist; --data-root {name}=DIR')
    if evaluation.needs_boxes and name not in settings.boxes:
        raise Unavailable(f"no prompts: the published figures are for a detector's boxes; --boxes {name}=FILE")
    weights, data = find_weights(row, settings).resolve(), ['--data-root', root.resolve()]
    if row.table == 'sam':
        boxes = ['--boxes', settings.boxes[name]] if evaluation.needs_boxes else []
        return [*evaluation.tool, *data, '--encoder', f'repvit_{row.arch}', '--checkpoint', weights, *boxes]
    options = [*data, *(['--cfg-options', *settings.options] if settings.options else [])]
    if settings.gpus > 1:
        return ['dist_test.sh', row.config_path, weights, str(settings.gpus), *options]
    return [*evaluation.tool, row.config_path, weights, *options]


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
        return fetch(row.weights.url)
    hint = '--weights DIR or --download' if released else '--weights DIR; they are not released'
    raise Unavailable(f'no weights: {" or ".join(names)} is not in {folder}; {hint}')
