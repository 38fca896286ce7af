"""Published figures beside measured ones."""
from dataclasses import asdict, dataclass
from typing import Any

AGREES, LAST_DIGIT, DIFFERS, NOT_MEASURED = 'agrees', 'last digit', 'differs', 'not measured'


def verdict(published: float, measured: float, decimals: int | None) -> str:
    """Compare at the precision of a table.

    Args:
        published: As the table prints it.
        measured: With all its digits.
        decimals: That the table prints; None for a count, which is exact.

    Returns:
        :data:`AGREES` if the measured figure rounds to the published one, :data:`LAST_DIGIT` if it rounds to one next
        to it, else :data:`DIFFERS`.
    """
    if decimals is None:
        return AGREES if measured == published else DIFFERS
    units = abs(measured - published) * 10 ** decimals
    # What lies half-way rounds both ways. The margin is for figures that are no binary fractions.
    if units <= 0.5 + 1e-6:
        return AGREES
    return LAST_DIGIT if units <= 1.5 + 1e-6 else DIFFERS


@dataclass(frozen=True)
class FigureComparison:
    """A figure of a row.

    Attributes:
        figure: Its name.
        published: As the metafile has it.
        decimals: To how many the table prints it; None for a count.
        measured: What came out here; None if it was not measured.
        reason: Why it was not measured.
        is_accuracy: Whether it is one, and not a size.
    """

    figure: str
    published: float
    decimals: int | None
    measured: float | None = None
    reason: str = ''
    is_accuracy: bool = False

    @property
    def difference(self) -> float | None:
        """Measured less published."""
        return None if self.measured is None else self.measured - self.published

    @property
    def verdict(self) -> str:
        """See :func:`verdict`; :data:`NOT_MEASURED` if there is nothing to compare."""
        return NOT_MEASURED if self.measured is None else verdict(self.published, self.measured, self.decimals)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), 'difference': self.difference, 'verdict': self.verdict}
