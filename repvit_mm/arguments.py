"""Types of numbers on the command line; one that is out of range is a usage error."""
import argparse
from collections.abc import Callable


def whole_number(least: int, most: int | None = None, multiple_of: int = 1) -> Callable[[str], int]:
    """A ``type`` for argparse: a whole number in a range.

    Args:
        least: The smallest allowed number.
        most: The largest allowed number; unbounded if None.
        multiple_of: Only multiples of this are allowed.
    """
    kind = 'a whole number' if multiple_of == 1 else f'a multiple of {multiple_of}'
    expected = f'{kind}, at least {least}' if most is None else f'{kind} from {least} to {most}'

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most) or number % multiple_of:
            raise argparse.ArgumentTypeError(f'expected {expected}, got {text}')
        return number

    return parse


positive = whole_number(1)
#: The largest seed that numpy, and so mmengine, accepts.
LARGEST_SEED = 2 ** 32 - 1
seed = whole_number(0, LARGEST_SEED)
