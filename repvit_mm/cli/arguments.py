"""The tools' parser, arguments that several take, and types of numbers: one out of range is a usage error."""
import argparse
import difflib
import math
import os
from collections.abc import Callable, Sequence


class Parser(argparse.ArgumentParser):
    """A tool's parser: it calls the tool as the user did, and guesses what an unknown option should have been.

    Args:
        description: What the tool does.
    """

    def __init__(self, description: str):
        # Popped, as a tool that this one starts has another name.
        super().__init__(prog=os.environ.pop('REPVIT_MM_COMMAND', None), description=description)

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse; the arguments are argparse's."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            close = [match for word in unknown if word.startswith('--')
                     for match in difflib.get_close_matches(word.partition('=')[0], self._option_string_actions, n=1)]
            hint = f'; did you mean {", ".join(close)}?' if close else ''
            self.error(f'unrecognized arguments: {" ".join(unknown)}{hint}')
        return parsed


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
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most) or value % multiple_of:
            raise argparse.ArgumentTypeError(f'expected {expected}, got {text}')
        return value

    return parse


def finite(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """A ``type`` for argparse: a finite number in a range."""
    bounds = [f'at least {least:g}'] * math.isfinite(least) + [f'at most {most:g}'] * math.isfinite(most)
    expected = ', '.join(['a finite number', *bounds])

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f'expected {expected}, got {text}')
        return value

    return parse


positive = whole_number(1)
fraction = finite(0, 1)
port = whole_number(1, 65535)
#: The longest side of an image; a larger one is a typing error that would take all memory.
side = whole_number(1, 16384)
#: The largest seed that numpy, and so mmengine, accepts.
LARGEST_SEED = 2 ** 32 - 1
seed = whole_number(0, LARGEST_SEED)

# What tools that share an argument say about it.
MODEL = 'config of a classifier, segmentor or detector, or an architecture such as m1_1'
CHECKPOINT = 'weights in any published format, fused or not: path, repvit://NAME or https address'
PICTURES = 'pictures to compare the outputs on (default: a photograph that comes with matplotlib)'


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape H W``."""
    parser.add_argument('--shape', type=side, nargs=2, default=(224, 224), metavar=('H', 'W'),
                        help='height and width of the image (default: 224 224)')
