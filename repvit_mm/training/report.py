"""Report of a classifier's test: predictions, a confusion matrix, the worst mistakes."""
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS

from ..errors import ConfigError
from ..io.files import atomic_write
from ..io.images import read_image, write_png

#: Up to this number of classes, the confusion matrix shows names and counts.
NAMED_CLASSES = 40


@dataclass(frozen=True)  # a tuple would be unpacked when results are moved between devices
class _Prediction:
    path: str
    label: int
    scores: np.ndarray  # of every class, after the softmax

    @property
    def predicted(self) -> int:
        return int(self.scores.argmax())

    @property
    def is_mistake(self) -> bool:
        return self.predicted != self.label


@METRICS.register_module()
class ClassificationReport(BaseMetric):
    """Write ``predictions.csv``, ``confusion_matrix.png`` and ``mistakes.png`` into a folder.

    The mistakes are the images whose wrong class got the highest scores. Each original image is also saved in
    ``mistakes/`` as ``RANK_LABEL_as_PREDICTED.png``. The metric itself is the mean of the classes' accuracies, in
    percent, which does not favour frequent classes.

    Args:
        out_dir: The folder.
        worst: Number of mistakes to draw.
        collect_device: See :class:`mmengine.evaluator.BaseMetric`, like the following.
        prefix: Prefix of the metric's name.

    Raises:
        ConfigError: If ``worst`` is negative.
    """

    default_prefix = 'accuracy'

    def __init__(self, out_dir: str, worst: int = 24, collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        if worst < 0:
            raise ConfigError(f'ClassificationReport: worst={worst} must not be negative')
        self.out_dir, self.worst = Path(out_dir), worst

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect the predictions of a batch."""
        for sample in data_samples:
            if sample['gt_label'].numel() != 1:
                raise ConfigError('ClassificationReport needs exactly one label per image; leave out --show-dir')
            scores = sample['pred_score'].float().cpu().numpy()
            self.results.append(_Prediction(sample.get('img_path', ''), int(sample['gt_label']), scores))

    def compute_metrics(self, results: list[_Prediction]) -> dict[str, float]:
        """Write the files, and compute the metric."""
        classes = (self.dataset_meta or {}).get('classes') or [str(i) for i in range(len(results[0].scores))]
        matrix = np.zeros((len(classes), len(classes)), int)
        np.add.at(matrix, ([p.label for p in results], [p.predicted for p in results]), 1)
        mistakes = [p for p in results if p.is_mistake and os.path.isfile(p.path)]  # not all data sets are image files
        mistakes = sorted(mistakes, key=lambda p: -p.scores.max())[:self.worst]
        self.out_dir.mkdir(parents=True, exist_ok=True)
        _write_table(results, classes, self.out_dir / 'predictions.csv')
        _save(draw_confusion_matrix(matrix, classes), self.out_dir / 'confusion_matrix.png')
        if mistakes:
            self._write_mistakes(mistakes, classes)
        print_log(f'Predictions, confusion matrix and the {len(mistakes)} worst mistakes are in {self.out_dir}',
                  'current')
        counts = matrix.sum(1)
        return {'mean_class': float(100 * (matrix.diagonal() / counts.clip(1))[counts > 0].mean())}

    def _write_mistakes(self, mistakes: Sequence[_Prediction], classes: Sequence[str]) -> None:
        images = [read_image(p.path) for p in mistakes]
        _save(_draw_mistakes(mistakes, images, classes), self.out_dir / 'mistakes.png')
        folder = self.out_dir / 'mistakes'
        folder.mkdir(exist_ok=True)
        for old in folder.glob('*_as_*.png'):
            old.unlink()
        for rank, (prediction, image) in enumerate(zip(mistakes, images, strict=True), start=1):
            names = (_file_name(classes[label]) for label in (prediction.label, prediction.predicted))
            write_png(folder / f'{rank:02d}_{"_as_".join(names)}.png', image)


def draw_confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix.

    Args:
        matrix: (classes, classes), number of images with the row's label and the column's prediction.
        classes: Their names.
    """
    named = len(classes) <= NAMED_CLASSES
    size = 3 + 0.45 * len(classes) if named else 12
    figure = Figure(figsize=(size + 1, size), layout='constrained')
    axes = figure.add_subplot()
    shares = matrix / matrix.sum(1, keepdims=True).clip(1)
    picture = axes.imshow(100 * shares, cmap='Blues', vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, label='% of the images of a class', shrink=0.8)
    axes.set_xlabel('predicted'), axes.set_ylabel('label')
    axes.set_title(f'{matrix.trace() / max(matrix.sum(), 1):.1%} of {matrix.sum():,} images are correct')
    if named:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha='right', rotation_mode='anchor')
        axes.set_yticks(range(len(classes)), classes)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            axes.text(column, row, matrix[row, column], ha='center', va='center', fontsize=8,
                      color='white' if shares[row, column] > 0.5 else 'black')
    return figure


def _draw_mistakes(mistakes: Sequence[_Prediction], images: Sequence[np.ndarray], classes: Sequence[str]) -> Figure:
    columns = min(6, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout='constrained')
    for number, (prediction, image) in enumerate(zip(mistakes, images, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title(f'{classes[prediction.label]} {prediction.scores[prediction.label]:.0%}\n'
                       f'taken for {classes[prediction.predicted]} {prediction.scores.max():.0%}', fontsize=8)
    return figure


def _write_table(predictions: Sequence[_Prediction], classes: Sequence[str], path: Path) -> None:
    with atomic_write(path) as part, part.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'label', 'predicted', 'score', 'score_of_label'])
        writer.writerows([p.path, classes[p.label], classes[p.predicted], f'{p.scores.max():.4f}',
                          f'{p.scores[p.label]:.4f}'] for p in predictions)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format='png')


def _file_name(name: str) -> str:
    return ''.join(c if c.isalnum() or c == '-' else '_' for c in name)
