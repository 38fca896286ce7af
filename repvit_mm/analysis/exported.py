"""Size, accuracy and latency of exported files beside PyTorch, and the table of them in the documentation."""
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track

from ..errors import UserError
from ..export.backends import BACKENDS
from ..export.detections import detect_with_mmdet
from ..export.detectors import Selection
from ..export.judging import accuracy, test_config
from ..export.pictures import load_pictures, normalise, to_pixels
from ..export.runtimes import ENGINES
from ..export.subject import Options, Subject, subject_of
from ..export.testing import use_exported
from ..export.verification import size_on_disk
from ..io.files import atomic_write
from ..models.inference import InferenceModel, build_inference_model
from .turns import Prepared, process_context, take_turns

#: The generated part of the document is between these lines.
BEGIN, END = '<!-- exported: begin -->', '<!-- exported: end -->'
HEADER = '| model | format | precision | MB | accuracy | ms |\n|---|---|---|---:|---|---:|'
ROUNDS = 20
_PYTORCH = Path('PyTorch')


class Job(NamedTuple):
    """What is measured: a model and its files.

    Attributes:
        config: Of the model.
        checkpoint: Its weights.
        data_root: Where its test data are; None for where the config says.
        shape: Height and width of the image, in pixels.
        pictures: The first one is timed.
        threads: Of each engine.
    """

    config: str
    checkpoint: str
    data_root: str | None
    shape: tuple[int, int]
    pictures: Sequence[str] = ()
    threads: int = 2

    def subject(self, fixed: bool = False) -> Subject:
        """The fused model; of a detector the whole, on request of fixed shapes."""
        model = build_inference_model(self.config, self.checkpoint)
        return subject_of(model, self.shape, Options(selection=selection_of(model)), fixed)

    def inputs(self, subject: Subject) -> dict[str, np.ndarray]:
        """The picture that is timed."""
        normalisation = subject.fused.normalisation
        pixels = to_pixels(load_pictures(self.shape, 1, self.pictures), normalisation.channels)
        return {'image': normalise(pixels, normalisation).numpy(), 'size': np.array(self.shape, np.float32)}


def selection_of(model: InferenceModel) -> Selection | None:
    """That of a whole detector."""
    return Selection() if model.task.name == 'detection' else None


def measure(job: Job, files: Sequence[Path]) -> list[list[str]]:
    """The rows of the table: PyTorch, then the files. Packages of Core ML are compared with PyTorch instead: what runs
    them off a Mac tells nothing of their speed.

    Raises:
        UserError: If a file cannot be run, or the test data are missing.
    """
    name = build_inference_model(job.config).name
    packages = [path for path in files if path.suffix == BACKENDS['coreml'].suffix]
    engines = {path: _engine_of(path) for path in files if path not in packages}
    makers = {path: partial(_prepare_file, job, path, engine) for path, engine in engines.items()}
    scores = {path: _score_apart(job, path, engines.get(path)) for path in track([_PYTORCH, *engines], 'testing')}
    turns = take_turns({_PYTORCH: partial(_prepare_pytorch, job), **makers}, ROUNDS)
    rows = []
    for path, score in scores.items():
        size = '-' if path is _PYTORCH else f'{_size(path) / 1e6:.1f}'
        figures = ', '.join(f'{metric} {value:.1f}' for metric, value in score.items())
        engine = 'PyTorch, fused' if path is _PYTORCH else engines[path]
        precision = 'fp32' if path is _PYTORCH else _precision_of(path, 'fp32')
        rows.append([name, engine, precision, size, figures, f'{np.median(turns[path][1].times):.1f}'])
    return rows + [_package_row(job, path) for path in packages]


def _score_apart(job: Job, path: Path, engine: str | None) -> dict[str, float]:
    """The accuracy, from a process of its own: LiteRT and ExecuTorch crash in one with others."""
    with ProcessPoolExecutor(1, process_context()) as pool:
        try:
            return pool.submit(_score, job, path, engine).result()
        except BrokenProcessPool:
            raise UserError(f'{path}: {engine or "PyTorch"} ended the process that tested it') from None


def _score(job: Job, path: Path, engine: str | None) -> dict[str, float]:
    config = build_inference_model(job.config).config
    cfg = config and test_config(config, job.data_root)
    if cfg is None:
        raise UserError(f'the test data of {job.config} are not here: give their place with --data-root DIR')
    if engine is None:
        return accuracy(cfg, job.subject().fused.model)[0]
    use_exported(cfg, str(path), engine)
    return accuracy(cfg)[0]


def _package_row(job: Job, path: Path) -> list[str]:
    """The row of a Core ML package."""
    subject, precision = job.subject(fixed=True), _precision_of(path, 'fp16')
    options = Options(precision, job.pictures, selection_of(subject.fused))
    largest: dict[str, float] = {}
    for result in BACKENDS['coreml'].prove(path, subject, options):
        largest[result.output] = max(result.difference, largest.get(result.output, 0.))
    figures = ', '.join(f'{output} {difference:.1e}' for output, difference in largest.items())
    return [subject.fused.name, 'coreml', precision, f'{size_on_disk(path) / 1e6:.1f}', f'differs: {figures}', '-']


def _precision_of(path: Path, default: str) -> str:
    """As the exporters name files."""
    return next((kind for kind in ('int8', 'fp16', 'fp32') if path.name.split('.')[0].endswith(kind)), default)


def write_rows(rows: Sequence[Sequence[str]], document: Path) -> None:
    """Put rows into a document's table, in the place of those of the same model.

    Raises:
        UserError: If the document does not have the table's markers.
    """
    text = document.read_text()
    marked = re.search(f'{re.escape(BEGIN)}\n(.*?){re.escape(END)}', text, re.DOTALL)
    if marked is None:
        raise UserError(f'{document} must have the line {BEGIN}, followed by {END}')
    lines = [f'| {" | ".join(row)} |' for row in rows]
    kept = [line for line in marked[1].splitlines()[2:] if not line.startswith(f'| {rows[0][0]} |')]
    table = '\n'.join([HEADER, *kept, *lines])
    with atomic_write(document) as path:
        path.write_text(f'{text[:marked.start()]}{BEGIN}\n{table}\n{END}{text[marked.end():]}')


def _engine_of(path: Path) -> str:
    engine = next((name for name, (_, endings) in ENGINES.items() if path.suffix in endings), None)
    if engine is None or not path.is_file():
        raise UserError(f'{path} is not a file that {", ".join(ENGINES)} run')
    return engine


def _size(path: Path) -> int:
    """Bytes of a file, and of the weights beside it."""
    weights = [path.with_suffix('.bin')] if path.suffix in ('.xml', '.param') else []
    return sum(part.stat().st_size for part in (path, *weights))


def _prepare_pytorch(job: Job) -> Prepared:
    torch.set_num_threads(job.threads)
    subject = job.subject()
    image = torch.from_numpy(job.inputs(subject)['image'])
    if selection_of(subject.fused) is not None:
        return Prepared(lambda: detect_with_mmdet(subject.model, image, job.shape))
    return Prepared(torch.inference_mode()(lambda: subject.model(image)))


def _prepare_file(job: Job, path: Path, engine: str) -> Prepared:
    file, inputs = ENGINES[engine][0](path, job.threads), job.inputs(job.subject())
    inputs = inputs if 'score_threshold' in file.facts else {'image': inputs['image']}
    return Prepared(lambda: file.run(inputs))
