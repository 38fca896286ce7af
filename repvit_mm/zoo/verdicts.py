"""Comparing measured figures with published ones."""
from dataclasses import asdict, dataclass
from typing import Any

AGREES, LAST_DIGIT, DIFFERS, NOT_MEASURED = 'agrees', 'last digit', 'differs', 'not measured'


def verdict(published: float, measured: float, decimals: int | None) -> str:
    """Compare at the precision of a table.

    Args:
        published: As printed in the table.
        measured: With all digits.
        decimals: Decimals in the table; None for a count, which must be equal.

    Returns:
        :data:`AGREES` if the measured figure rounds to the published one, :data:`LAST_DIGIT` if it is off by one in
        the last digit, else :data:`DIFFERS`.
    """
    if decimals is None:
        return AGREES if measured == published else DIFFERS
    units = abs(measured - published) * 10 ** decimals
    # A tie may round both ways. The margin is for decimal fractions that binary numbers cannot represent.
    if units <= 0.5 + 1e-6:
        return AGREES
    return LAST_DIGIT if units <= 1.5 + 1e-6 else DIFFERS


@dataclass(frozen=True)
class FigureComparison:
    """A figure of a row, published and measured.

    Attributes:
        figure: Its name.
        published: The value in the metafile.
        decimals: Decimals in the table; None for a count.
        measured: None if it was not measured.
        reason: Why it was not measured.
        is_accuracy: Whether it is an accuracy, not a size.
    """

    figure: str
    published: float
    decimals: int | None
    measured: float | None = None
    reason: str = ''
    is_accuracy: bool = False

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.published

    @property
    def verdict(self) -> str:
        """See :func:`verdict`; :data:`NOT_MEASURED` without a measured figure."""
        return NOT_MEASURED if self.measured is None else verdict(self.published, self.measured, self.decimals)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), 'difference': self.difference, 'verdict': self.verdict}
