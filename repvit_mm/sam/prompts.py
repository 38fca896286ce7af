"""Prompts: points and boxes, checked against the image."""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError

FOREGROUND, BACKGROUND = 1, 0


class Prompt(NamedTuple):
    """Points and a box on an image, in its pixels; the origin is the upper left corner.

    Attributes:
        points: (x, y) of each point.
        labels: For each point 1 (inside the object) or 0 (background).
        box: x1, y1, x2, y2 of a box around the object.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is a single point, which may mean a part or the whole, so it gets several masks."""
        return self.box is None and len(self.points) == 1

    def checked(self, width: int, height: int) -> 'Prompt':
        """Check the prompt for an image of ``width`` x ``height`` pixels; its box is sorted and clipped.

        Raises:
            UserError: If it is empty, a point is outside the image, or all of the box is.
        """
        if not self.points and self.box is None:
            raise UserError('the prompt is empty: give a point or a box, or segment everything')
        if len(self.points) != len(self.labels):
            raise UserError(f'expected {len(self.points)} labels, one for each point, got {len(self.labels)}')
        if wrong := set(self.labels) - {FOREGROUND, BACKGROUND}:
            raise UserError(f'label {min(wrong)} of a point must be 1 (inside the object) or 0 (background)')
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):  # also refuses NaN
                raise UserError(f'point {x:g} {y:g} is outside the image of {width} x {height} pixels')
        return self if self.box is None else self._replace(box=_checked_box(self.box, width, height))

    def arrays(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Points (N, 2), labels (N,) and box (4,) for the predictor; None if empty."""
        points = np.array(self.points, dtype=np.float32) if self.points else None
        labels = np.array(self.labels, dtype=np.int32) if self.points else None
        return points, labels, None if self.box is None else np.array(self.box, dtype=np.float32)


def _checked_box(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    text = ' '.join(f'{value:g}' for value in box)
    if not all(map(math.isfinite, box)):
        raise UserError(f'box {text} must be four finite numbers')
    (x1, x2), (y1, y2) = sorted(box[::2]), sorted(box[1::2])
    x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    if x1 >= x2 or y1 >= y2:
        raise UserError(f'box {text} has no area inside the image of {width} x {height} pixels')
    return x1, y1, x2, y2
