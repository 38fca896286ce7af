"""What a user asks to be segmented, checked against the picture."""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError

FOREGROUND, BACKGROUND = 1, 0


class Prompt(NamedTuple):
    """Points and a box on a picture, in its pixels; the origin is the upper left corner.

    Attributes:
        points: (x, y) of each point.
        labels: For each point 1 (inside the object) or 0 (not a part of it).
        box: x1, y1, x2, y2 of a box around the object.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None

    @property
    def is_ambiguous(self) -> bool:
        """Whether it may mean a part as well as the whole, so that several masks are wanted: a single point."""
        return self.box is None and len(self.points) == 1

    def checked(self, width: int, height: int) -> 'Prompt':
        """The same prompt for a picture of ``width`` x ``height`` pixels, with the corners of its box in order.

        Raises:
            UserError: If it is empty, a point is outside of the picture, or no part of the box is inside.
        """
        if not self.points and self.box is None:
            raise UserError('the prompt is empty: give a point, a box, or ask for everything')
        if len(self.points) != len(self.labels):
            raise UserError(f'{len(self.points)} points need as many labels, got {len(self.labels)}')
        if wrong := set(self.labels) - {FOREGROUND, BACKGROUND}:
            raise UserError(f'label {min(wrong)} of a point must be 1 (inside the object) or 0 (not a part of it)')
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):  # no number is inside of anything, either
                raise UserError(f'point {x:g} {y:g} is outside of the picture, which is {width} x {height} pixels')
        return self if self.box is None else self._replace(box=_checked_box(self.box, width, height))

    def arrays(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Points (N, 2), labels (N,) and box (4,) as the predictor takes them, None for what there is not."""
        points = np.array(self.points, dtype=np.float32) if self.points else None
        labels = np.array(self.labels, dtype=np.int32) if self.points else None
        return points, labels, None if self.box is None else np.array(self.box, dtype=np.float32)


def _checked_box(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    text = ' '.join(f'{value:g}' for value in box)
    if not all(map(math.isfinite, box)):
        raise UserError(f'box {text} needs four numbers')
    (x1, x2), (y1, y2) = sorted(box[::2]), sorted(box[1::2])
    x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    if x1 >= x2 or y1 >= y2:
        raise UserError(f'box {text} has no area inside of the picture, which is {width} x {height} pixels')
    return x1, y1, x2, y2
