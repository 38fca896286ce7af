"""Report of a test, one HTML page: metrics, figures of each class, a confusion matrix, curves, the worst images."""
import base64
import heapq
import html
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

from ..errors import ConfigError
from ..io.files import atomic_write, check_folder, make_folder
from ..io.images import read_image
from ..toolboxes import toolbox_of
from ..toolboxes.datasets import innermost
from ..toolboxes.drawings import SCORE, draw_detection, draw_segmentation, instances_of

#: A detection is right with at least this IoU with an object of its class.
IOU = 0.5
#: Number of images shown, and longest side of one in pixels.
WORST, SIDE = 24, 1200
#: Up to this number of classes, the confusion matrix has names and shares.
NAMED = 30
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title><style>
body {{font: 15px system-ui, sans-serif; max-width: 1200px; margin: 2em auto; color: #20222a}}
td, th {{padding: .2em 1em; text-align: right; border-bottom: 1px solid #ddd}} td:first-child {{text-align: left}}
img {{max-width: 100%}} figure {{margin: 1.5em 0}} figcaption {{color: #666}}</style>
<h1>{title}</h1><p>{note}</p>{body}"""


class Judged(NamedTuple):
    """The prediction for one sample, compared with its ground truth.

    Attributes:
        truth: Indices of true classes, (K,); each makes a pair with the same item of ``predicted``.
        predicted: Indices of predicted classes, (K,).
        mistake: How wrong it is, at least 0, which is right.
        caption: Description of the mistake.
        draw: Gives the drawing, RGB, uint8 (H, W, 3).
        scored: Scores of predictions, and whether each is right, (M, 2).
    """

    truth: np.ndarray
    predicted: np.ndarray
    mistake: float
    caption: str
    draw: Callable[[], np.ndarray]
    scored: np.ndarray = np.zeros((0, 2))


def judge_classification(sample: Any, instances: Sequence[Mapping] | None, meta: Mapping) -> Judged:
    """Judge a sample of mmpretrain with one label."""
    classes, scores, label = meta['classes'], sample.pred_score.float().cpu().numpy(), int(sample.gt_label)
    best = int(scores.argmax())
    caption = f'{classes[label]} {scores[label]:.2f}, predicted {classes[best]} {scores[best]:.2f}'
    return Judged(np.array([label]), np.array([best]), scores[best] * (best != label), caption,
                  lambda: read_image(sample.img_path), np.array([[scores[best], best == label]]))


def judge_labels(sample: Any, instances: Sequence[Mapping] | None, meta: Mapping) -> Judged:
    """Judge a sample of mmpretrain with any number of labels; an index beyond the classes stands for no label."""
    classes, none = meta['classes'], len(meta['classes'])
    truth, found = (set(labels.tolist()) for labels in (sample.gt_label, sample.pred_label))
    pairs = np.array([(label, label) if label in truth & found else (label, none) if label in truth else (none, label)
                      for label in sorted(truth | found)], int).reshape(-1, 2)
    caption = '; predicted '.join(', '.join(classes[label] for label in sorted(labels)) or 'nothing'
                                  for labels in (truth, found))
    scored = np.array([(score, label in truth) for label, score in enumerate(sample.pred_score.tolist())])
    return Judged(*pairs.T, float(len(truth ^ found)), caption, lambda: read_image(sample.img_path), scored)


def judge_segmentation(sample: Any, instances: Sequence[Mapping] | None, meta: Mapping) -> Judged:
    """Judge a sample of mmseg; its mistake is the share of wrong pixels."""
    truth, predicted = maps = [labels.data[0].cpu().numpy() for labels in (sample.gt_sem_seg, sample.pred_sem_seg)]
    known = truth < len(meta['classes'])
    mistake = float((truth != predicted)[known].mean()) if known.any() else 0.

    def draw() -> np.ndarray:
        return draw_segmentation(read_image(sample.img_path), maps, meta['classes'], meta['palette'])
    return Judged(truth[known], predicted[known], mistake, f'{mistake:.1%} of the pixels are wrong', draw)


def judge_detection(sample: Any, instances: Sequence[Mapping] | None, meta: Mapping) -> Judged:
    """Judge a sample of mmdet; its mistake is the number of missed, wrong and confused objects.

    An index beyond the classes is the background. Detections inside of ignored regions do not count.
    """
    classes, truth = meta['classes'], [item for item in instances if not item.get('ignore_flag')]
    crowds = torch.tensor([item['bbox'] for item in instances if item.get('ignore_flag')]).reshape(-1, 4)
    found = sample.pred_instances.cpu()
    found = found[found.scores.argsort(descending=True)]
    boxes, labels = torch.tensor([item['bbox'] for item in truth]).reshape(-1, 4), [x['bbox_label'] for x in truth]
    pairs = match(found.bboxes, found.labels, boxes, labels, crowds, same_class=True)
    scored = np.array([(score, other >= 0) for score, other in zip(found.scores.tolist(), pairs, strict=True)
                       if other is not None]).reshape(-1, 2)
    found = found[found.scores >= SCORE]
    pairs = match(found.bboxes, found.labels, boxes, labels, crowds)
    background = len(classes)
    predicted = [*(label for label, other in zip(found.labels.tolist(), pairs, strict=True) if other is not None),
                 *(background for i in range(len(truth)) if i not in pairs)]
    actual = [*(background if other < 0 else labels[other] for other in pairs if other is not None),
              *(label for i, label in enumerate(labels) if i not in pairs)]
    missed, wrong = predicted.count(background), actual.count(background)
    confused = sum(a != b for a, b in zip(actual, predicted, strict=True)) - missed - wrong
    return Judged(np.array(actual, int), np.array(predicted, int), float(missed + wrong + confused),
                  f'ground truth and prediction: {missed} missed, {wrong} false, {confused} confused',
                  lambda: draw_detection(read_image(sample.img_path), truth, found, classes), scored)


def match(boxes: torch.Tensor, labels: torch.Tensor, truth: torch.Tensor, truth_labels: Sequence[int],
          crowds: torch.Tensor, same_class: bool = False) -> list[int | None]:
    """Match detections, best first, to objects; of the same class first, then of any.

    Args:
        boxes: (N, 4), left, top, right, bottom in pixels.
        labels: (N,).
        truth: (M, 4).
        truth_labels: M labels.
        crowds: (C, 4), regions whose detections are left out.
        same_class: Match objects of the same class only.

    Returns:
        For each detection the index of its object, -1 for none, None if it is left out.
    """
    from mmdet.structures.bbox import bbox_overlaps
    overlaps = bbox_overlaps(boxes, truth).numpy()
    same = labels.numpy()[:, None] == np.asarray(truth_labels, int)
    pairs: list[int | None] = [-1] * len(boxes)
    for allowed in (same,) if same_class else (same, ~same):
        for i in range(len(boxes)):
            fits = np.where(allowed[i], overlaps[i], 0)
            if pairs[i] == -1 and len(fits) and fits.max() >= IOU:
                pairs[i] = int(fits.argmax())
                overlaps[:, pairs[i]] = 0
    inside = bbox_overlaps(boxes, crowds, mode='iof').numpy().max(1, initial=0) >= IOU
    return [None if pair == -1 and left_out else pair for pair, left_out in zip(pairs, inside, strict=True)]


#: Kind of model -> its judge, and the counted unit. Those in _WITH_BACKGROUND have one index more than classes.
_KINDS = {'classification': (judge_classification, 'images'), 'labels': (judge_labels, 'labels'),
          'segmentation': (judge_segmentation, 'pixels'), 'detection': (judge_detection, 'objects')}
_WITH_BACKGROUND = ('labels', 'detection')


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes the report of a test.

    Args:
        out_dir: Gets ``report.html``, which holds its images.
        kind: The kind of model, a key of ``_KINDS``.
    """

    def __init__(self, out_dir: str, kind: str):
        self.path, self.kind, (self.judge, self.unit) = Path(out_dir, 'report.html'), kind, _KINDS[kind]
        self._matrix, self._scored, self._worst, self._number = None, [], [], count()

    def before_test_epoch(self, runner: Runner) -> None:
        """Find the ground truth."""
        datasets = list(innermost(runner.test_dataloader.dataset))
        self.meta = datasets[0].metainfo
        self.classes = list(self.meta['classes'])
        size = len(self.classes) + (self.kind in _WITH_BACKGROUND)
        self._matrix = np.zeros((size, size), int)
        self._truth = instances_of(runner.test_dataloader.dataset) if self.kind == 'detection' else {}

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        """Judge the samples of a batch."""
        for sample in outputs:
            judged = self.judge(sample, self._truth.get(sample.img_path), self.meta)
            size = len(self._matrix)
            self._matrix += np.bincount(size * judged.truth + judged.predicted, minlength=size ** 2
                                        ).reshape(size, size)
            self._scored.append(judged.scored)
            full = len(self._worst) == WORST
            if judged.mistake > (self._worst[0][0] if full else 0):  # drawn at once, as masks take much memory
                item = (judged.mistake, -next(self._number), sample.img_path, judged.caption, _embed(judged.draw()))
                (heapq.heappushpop if full else heapq.heappush)(self._worst, item)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the page."""
        objects = int(self._matrix[:len(self.classes)].sum())
        of_classes = {f'coco/{cls}_precision' for cls in self.classes}
        rows = [(name, f'{value:.4g}') for name, value in (metrics or {}).items()
                if isinstance(value, Real) and value >= 0 and name not in of_classes]  # -1: no objects of this size
        parts = [('Metrics', _table(('metric', 'value'), rows)), ('Classes', self._class_table(metrics or {})),
                 ('Confusion matrix', _embed(draw_confusion(self._matrix, self.classes)))]
        if len(scored := np.concatenate(self._scored)):
            parts.append(('Precision-recall', _embed(draw_precision(scored, objects))))
        if lines := training_log(runner.cfg.load_from):
            parts.append(('Training', _embed(draw_training(lines))))
        shown = ''.join(f'<figure>{image}<figcaption>{html.escape(f"{path}: {caption}")}</figcaption></figure>'
                        for *_, path, caption, image in sorted(self._worst, reverse=True))
        parts.append((f'The {len(self._worst)} worst images', shown))
        title, note = Path(runner.cfg.filename).stem, f'{runner.cfg.filename}, {runner.cfg.load_from}'
        body = ''.join(f'<h2>{heading}</h2>{content}' for heading, content in parts)
        make_folder(self.path.parent, '--report')
        with atomic_write(self.path) as part:
            part.write_text(_PAGE.format(title=html.escape(title), note=html.escape(note), body=body), 'utf-8')
        print_log(f'The report is {self.path}', 'current')

    def _class_table(self, metrics: Mapping[str, float]) -> str:
        known = np.arange(len(self.classes))
        right, of_truth, of_predicted = self._matrix.diagonal()[known], self._matrix.sum(1), self._matrix.sum(0)
        totals = {'recall': of_truth[known], 'precision': of_predicted[known]}  # 0 where a class is never predicted
        if self.kind == 'segmentation':
            totals['IoU'] = of_truth + of_predicted - right
        columns = {name: np.divide(right, total, np.full(len(right), np.nan), where=total > 0)
                   for name, total in totals.items()}
        average = [metrics.get(f'coco/{cls}_precision') for cls in self.classes]
        if None not in average:  # mmdet gives that of masks if there are some
            columns['mask AP' if 'coco/segm_mAP' in metrics else 'box AP'] = np.array(average)
        there = of_truth[known] > 0
        rows = [(cls, f'{of_truth[i]:,}', *(_percent(values[i:i + 1]) for values in columns.values()))
                for i, cls in enumerate(self.classes)]
        mean = ('mean', f'{of_truth[known].sum():,}', *(_percent(values[there]) for values in columns.values()))
        return _table(('class', self.unit, *columns), [*rows, mean])


def enable_report(cfg: Config, out_dir: str) -> None:
    """Write a report of the test into a folder.

    Args:
        cfg: Changed in place.
        out_dir: The folder.

    Raises:
        ConfigError: If the model is none of a toolbox, or several processes test.
    """
    task = toolbox_of(cfg).task
    if task is None:
        raise ConfigError('--report needs a config for mmdet, mmseg or mmpretrain; this one has '
                          f'default_scope={cfg.get("default_scope")!r}')
    kind = 'labels' if 'MultiLabel' in str(cfg.model) else task.name
    if get_world_size() > 1 or cfg.get('launcher', 'none') != 'none':
        raise ConfigError('--report needs a test in one process; leave out --launcher')
    check_folder(out_dir, 'report.html', '--report')
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='ReportHook', out_dir=out_dir, kind=kind)]


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, in percent of each row.

    Args:
        matrix: (K, K), counts with the row's class and the column's prediction.
        classes: K names, or K - 1 before the background.
    """
    names = [*classes, 'background'][:len(matrix)]
    shares = 100 * matrix / matrix.sum(1, keepdims=True).clip(1)
    side = min(4 + 0.4 * len(names), 14)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    figure.colorbar(image, label='% of the class')
    axes.set(xlabel='prediction', ylabel='ground truth', xticks=[], yticks=[])
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=60, ha='right')
        axes.set_yticks(range(len(names)), names)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:
                axes.text(column, row, f'{share:.0f}', ha='center', va='center', size=8,
                          color='white' if share > 60 else 'black')
    return figure


def draw_precision(scored: np.ndarray, objects: int) -> Figure:
    """Draw precision over recall of the predictions above each score.

    Args:
        scored: (M, 2), score of each prediction and whether it is right.
        objects: Number of objects.
    """
    right = scored[np.argsort(-scored[:, 0], kind='stable'), 1].cumsum()
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    axes.plot(right / max(objects, 1), right / np.arange(1, len(right) + 1))
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    return figure


def draw_training(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the total loss, and each metric of the validations, over the steps of mmengine's ``scalars.json``."""
    figure = Figure(figsize=(11, 4), layout='constrained')
    for axes, wanted in zip(figure.subplots(1, 2), ('loss', 'metric'), strict=True):
        names = ['loss'] if wanted == 'loss' else sorted(
            {name for line in lines for name in line if '/' in name or name in ('aAcc', 'mIoU', 'mAcc')})
        # AP by size is -1 where there are no objects.
        for name in [name for name in names if not name.endswith(('_s', '_m', '_l'))]:
            axes.plot(*zip(*((line['step'], line[name]) for line in lines if name in line), strict=True),
                      label=name, marker='.')
        axes.set(xlabel='step', ylabel=wanted)
        axes.grid(alpha=0.25)
        if wanted == 'metric' and names:
            axes.legend(frameon=False, fontsize=8)
    return figure


def training_log(checkpoint: str | None) -> list[dict]:
    """The log of the training that saved a checkpoint, and of those that it resumed, if they are beside it."""
    if not checkpoint or not os.path.isfile(checkpoint):
        return []
    saved = time.strftime('%Y%m%d_%H%M%S', time.localtime(os.path.getmtime(checkpoint)))
    runs = [run for run in sorted(Path(checkpoint).parent.glob('*/vis_data')) if run.parent.name <= saved]
    lines: list[dict] = []
    for run in reversed(runs):
        if not (run / 'scalars.json').is_file():
            continue
        new = [json.loads(line) for line in (run / 'scalars.json').read_text().splitlines()]
        if any('loss' in line for line in new):
            lines = [line for line in new if not lines or line['step'] < lines[0]['step']] + lines
            if 'resume = True' not in (run / 'config.py').read_text():
                break
    return lines


def _percent(values: np.ndarray) -> str:
    """Mean of shares without NaN, in percent."""
    known = values[~np.isnan(values)]
    return f'{100 * known.mean():.1f}' if len(known) else '-'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [''.join(f'<th>{html.escape(cell)}</th>' for cell in head),
             *(''.join(f'<td>{html.escape(cell)}</td>' for cell in row) for row in rows)]
    return f'<table>{"".join(f"<tr>{row}</tr>" for row in cells)}</table>'


def _embed(drawn: Figure | np.ndarray) -> str:
    buffer = io.BytesIO()
    if isinstance(drawn, Figure):
        drawn.savefig(buffer, format='png', dpi=110)
        kind = 'png'
    else:
        image = Image.fromarray(drawn)
        image.thumbnail((SIDE, SIDE))
        image.save(buffer, 'JPEG', quality=88)
        kind = 'jpeg'
    return f'<img src="data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}">'
