"""Report of a classifier's test: predictions, a confusion matrix, the worst mistakes."""
import csv
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from mmpretrain.evaluation import ConfusionMatrix

from ..errors import ConfigError
from ..io.files import atomic_write
from ..io.images import read_image

#: Up to this number of classes, the confusion matrix shows names and counts.
NAMED_CLASSES = 40


@METRICS.register_module()
class ClassificationReport(BaseMetric):
    """Write ``predictions.csv``, ``confusion_matrix.png`` and ``mistakes.png`` into a folder.

    The mistakes are the images whose wrong class got the highest scores. The metric itself is the mean of the classes'
    accuracies, in percent, which does not favour frequent classes.

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
            self.results.append({'path': sample.get('img_path', ''), 'label': int(sample['gt_label']),
                                 'predicted': int(scores.argmax()), 'scores': scores})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Write the files, and compute the metric."""
        classes = (self.dataset_meta or {}).get('classes') or [str(i) for i in range(len(results[0]['scores']))]
        matrix = np.zeros((len(classes), len(classes)), int)
        np.add.at(matrix, ([r['label'] for r in results], [r['predicted'] for r in results]), 1)
        mistakes = [r for r in results if r['predicted'] != r['label'] and os.path.isfile(r['path'])]
        mistakes = sorted(mistakes, key=lambda r: -r['scores'].max())[:self.worst]
        self.out_dir.mkdir(parents=True, exist_ok=True)
        _write_table(results, classes, self.out_dir / 'predictions.csv')
        _save(draw_confusion_matrix(matrix, classes), self.out_dir / 'confusion_matrix.png')
        (self.out_dir / 'mistakes.png').unlink(missing_ok=True)  # of another test
        if mistakes:
            _save(_draw_mistakes(mistakes, classes), self.out_dir / 'mistakes.png')
        print_log(f'Predictions, confusion matrix and the {len(mistakes)} worst mistakes are in {self.out_dir}',
                  'current')
        counts = matrix.sum(1)
        return {'mean_class': float(100 * (matrix.diagonal() / counts.clip(1))[counts > 0].mean())}


def draw_confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix.

    Args:
        matrix: (classes, classes), number of images with the row's label and the column's prediction.
        classes: Their names.
    """
    named = len(classes) <= NAMED_CLASSES
    figure = ConfusionMatrix.plot(torch.from_numpy(matrix), named, 'Blues', list(classes), show=False)
    plt.close(figure)  # pyplot would keep it
    if not named:
        figure.axes[0].set(xticks=[], yticks=[])
    return figure


def _draw_mistakes(mistakes: Sequence[dict], classes: Sequence[str]) -> Figure:
    columns = min(6, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout='constrained')
    for number, mistake in enumerate(mistakes, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(read_image(mistake['path']))
        axes.set_axis_off()
        axes.set_title(f'{classes[mistake["label"]]} {mistake["scores"][mistake["label"]]:.0%}\n'
                       f'taken for {classes[mistake["predicted"]]} {mistake["scores"].max():.0%}', fontsize=8)
    return figure


def _write_table(results: Sequence[dict], classes: Sequence[str], path: Path) -> None:
    with atomic_write(path) as part, part.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['image', 'label', 'predicted', 'score', 'score_of_label'])
        writer.writerows([r['path'], classes[r['label']], classes[r['predicted']], f'{r["scores"].max():.4f}',
                          f'{r["scores"][r["label"]]:.4f}'] for r in results)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format='png')
