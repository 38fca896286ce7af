"""The tools' parser, arguments that several take, and types of numbers: one out of range is a usage error."""
import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..errors import ConfigError, did_you_mean, is_first_process


class Parser(argparse.ArgumentParser):
    """A tool's parser: it calls the tool as the user did, suggests options, and registers RepViT once all is parsed.

    Args:
        description: Description of the tool.
        register: Whether the tool needs RepViT and mmengine, which take seconds to import.
    """

    def __init__(self, description: str, register: bool = True):
        # Popped, as a tool that this one starts has another name.
        super().__init__(prog=os.environ.pop('REPVIT_MM_COMMAND', None), description=description)
        self._register = register

    def parse_args(self, args: Sequence[str] | None = None,
                   namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse; the arguments are argparse's. Device and launcher of a training or test take effect here."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hints = (did_you_mean(word.partition('=')[0], self._option_string_actions)
                     for word in unknown if word.startswith('--'))
            self.error(f'unrecognized arguments: {" ".join(unknown)}{"".join(hints)}')
        try:
            if 'launcher' in parsed:
                _use_device(self, parsed.device)  # before mmengine is imported, which notes the device
                _set_local_rank(parsed.launcher, parsed.local_rank)
            if self._register:
                tell('importing torch and mmengine')
                import_module('repvit_mm').register()
        except ImportError as error:
            self.exit(1, f'error: {error}\n')
        return parsed


def tell(step: str) -> None:
    """Show on a terminal what starts now: on a busy machine, it takes a minute until the log starts."""
    if sys.stderr.isatty() and is_first_process():
        print(f'{step} ...', file=sys.stderr, flush=True)


class CfgOptions(argparse.Action):
    """mmengine's ``key=value`` pairs; anything else is a usage error."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str],
                 option_string: str | None = None) -> None:
        from mmengine.config import DictAction
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string}: expected KEY=VALUE, got {value!r}')
        try:
            DictAction(self.option_strings, self.dest, nargs='+')(parser, namespace, values, option_string)
        except (AssertionError, RecursionError):  # how mmengine fails on unbalanced brackets, and on dicts in lists
            parser.error(f'{option_string}: expected numbers, strings, or lists and tuples of them, got '
                         f'{" ".join(values)}')


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
#: Up to the largest seed that numpy, and so mmengine, accepts.
seed = whole_number(0, 2 ** 32 - 1)


def device(text: str) -> str:
    """A ``type`` for argparse: ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r'cpu|cuda(:\d+)?', text):
        raise argparse.ArgumentTypeError(f'expected cpu, cuda or cuda:N, got {text}')
    return text


#: Keys of repvit_mm.export.FORMATS and repvit_mm.export.runtimes.ENGINES, which load torch.
FORMATS = ('onnx', 'openvino', 'coreml', 'litert', 'ncnn', 'executorch')
ENGINES = ('onnxruntime', *FORMATS[1:])

# Help of arguments that tools share.
MODEL = 'config of a classifier, segmentor or detector, or an architecture such as m1_1'
CHECKPOINT = 'weights in any published format, fused or not: path, repvit://NAME or https address'
PICTURES = 'images to compare the outputs on (default: a photograph of matplotlib)'
DEVICE = 'cpu, cuda, cuda:1, ... (default: the GPU if there is one)'


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape H W``."""
    parser.add_argument('--shape', type=side, nargs=2, default=(224, 224), metavar=('H', 'W'),
                        help='height and width of the image (default: 224 224)')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``tools/train.py`` and ``tools/test.py`` share."""
    parser.add_argument('--work-dir', metavar='DIR', help='logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    parser.add_argument('--data-root', metavar='DIR',
                        help='folder of the data set, for every loader and evaluator (default: that of the config)')
    parser.add_argument('--device', type=device, metavar='NAME', help=DEVICE)
    parser.add_argument('--seed', type=seed, metavar='N', help='seed of all random numbers (default: random)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_dataloader.batch_size=4 '
                             '"param_scheduler.1.milestones=[8,11]"; no spaces inside a value')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='launcher of the processes of a distributed run (default: %(default)s)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


#: Launcher -> variables that it sets: the number of a process, its number on its machine, and how many there are.
_LAUNCHED = {'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
             'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
             'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE')}


def _use_device(parser: argparse.ArgumentParser, name: str | None) -> None:
    """Show torch only this device."""
    kind, _, index = (name or '').partition(':')
    if kind == 'cpu' or index:
        os.environ['CUDA_VISIBLE_DEVICES'] = index
    if kind == 'cuda' and not import_module('torch').cuda.is_available():
        parser.exit(1, f'error: --device {name}: torch can use no such GPU here\n')


def _set_local_rank(launcher: str, local_rank: int) -> None:
    """Set LOCAL_RANK and WORLD_SIZE for a process of any launcher, as torch's does."""
    text = os.environ.get('LOCAL_RANK', '0')
    if not text.isdecimal():  # mmengine reads it in any run
        raise ConfigError(f'LOCAL_RANK={text} must be a whole number; unset it to run one process')
    if launcher == 'none':
        return
    rank, local, processes = _LAUNCHED[launcher]
    if rank not in os.environ:
        raise ConfigError(f'--launcher {launcher} is for processes that it has started, but {rank} is not set; '
                          'use the scripts tools/dist_*.sh or tools/slurm_*.sh, or leave it out to run one process')
    os.environ.setdefault('LOCAL_RANK', os.environ.get(local, str(local_rank)))
    os.environ.setdefault('WORLD_SIZE', os.environ.get(processes, '1'))
