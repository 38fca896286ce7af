"""Training curves, from mmengine's logs or from a table of a published run."""
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..io.files import read_text
from ..training.scalars import is_training, read_scalars

#: Possible x axes in logs and tables, the preferred one first.
_STEPS = ('epoch', 'eval', 'iter', 'step')


class Curve(NamedTuple):
    """A quantity over the course of a training.

    Attributes:
        run: Name of the training.
        quantity: Name of the quantity.
        step: Unit of ``x``.
        x: Epochs or iterations.
        y: Values.
    """

    run: str
    quantity: str
    step: str
    x: list[float]
    y: list[float]


def read_curves(path: Path) -> list[Curve]:
    """Read the curves of a training.

    Args:
        path: A table (CSV) with a column of epochs or iterations, one for each quantity, and optionally ``run``; or a
            ``scalars.json`` or work directory, see :func:`repvit_mm.training.scalars.read_scalars`.

    Raises:
        UserError: If the file is missing, damaged, or has nothing to draw.
    """
    if path.is_dir():
        curves = _curves(_steps_of(read_scalars(path)), path.name)
    elif path.suffix == '.csv':
        try:
            curves = _curves((_numbers(row) for row in csv.DictReader(io.StringIO(read_text(path)))), path.stem)
        except csv.Error as error:
            raise UserError(f'{path} is not a table (CSV): {error}') from error
    else:
        curves = _curves(_steps_of(read_scalars(path)), path.parent.parent.parent.name)
    if not curves:
        raise UserError(f'{path} has nothing to draw: expected quantities over one of {", ".join(_STEPS)}')
    return curves


def _steps_of(records: Iterable[Mapping]) -> Iterator[dict]:
    """Records of mmengine with the step under its unit."""
    for record in records:
        yield {**{key: value for key, value in record.items() if key not in _STEPS},
               'iter' if is_training(record) else 'epoch': record.get('step', record.get('iter'))}


def _numbers(row: Mapping[str, str]) -> dict:
    found = {}
    for key, value in row.items():
        try:
            found[key] = value if key == 'run' else float(value)
        except (TypeError, ValueError):  # an empty cell, a name
            continue
    return found


def _curves(records: Iterable[Mapping], name: str) -> list[Curve]:
    curves: dict[tuple[str, str, str], Curve] = {}
    for record in records:
        step = next((key for key in _STEPS if record.get(key) is not None), None)
        if step is None:
            continue
        run = str(record.get('run', name))
        for quantity, value in record.items():
            if quantity in _STEPS or quantity == 'run' or not isinstance(value, int | float):
                continue
            curve = curves.setdefault((run, quantity, step), Curve(run, quantity, step, [], []))
            curve.x.append(float(record[step]))
            curve.y.append(float(value))
    return [curve for curve in curves.values() if len(curve.x) > 1]


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw curves, a panel for each quantity: up to six, with losses and accuracies first.

    Args:
        curves: Curves of one or several trainings.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure
    chosen = sorted({curve.quantity for curve in curves}, key=_interest)[:6]
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * lines), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    runs = list(dict.fromkeys(curve.run for curve in curves))
    for axis, quantity in zip(axes, chosen, strict=False):
        for curve in curves:
            if curve.quantity == quantity:
                axis.plot(curve.x, curve.y, color=f'C{runs.index(curve.run) % 10}', label=curve.run, linewidth=1)
                axis.set_xlabel({'iter': 'iteration', 'eval': 'iteration', 'step': 'step'}.get(curve.step, 'epoch'))
        axis.set_title(quantity, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[len(chosen):]:
        axis.set_visible(False)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120, format='png')


def _interest(quantity: str) -> tuple[int, str]:
    """Sort key: the most informative quantities first."""
    exact = ('loss', 'train_loss', 'accuracy/top1', 'test_acc1', 'coco/bbox_mAP', 'bbox_mAP', 'coco/segm_mAP',
             'segm_mAP', 'mIoU', 'mAcc', 'aAcc', 'lr', 'train_lr', 'base_lr')
    if quantity in exact:
        return exact.index(quantity), quantity
    return len(exact) + (0 if 'loss' in quantity or 'AP' in quantity or 'acc' in quantity else 1), quantity
