"""Mistakes of the user become one line, from one process of a run; bugs keep their traceback."""
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from torch import distributed, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..errors import ConfigError, DatasetError, UserError, is_out_of_memory
from ..io.toolbox_files import decode_as_we_do
from .config import settings_in

_UNKNOWN_SETTING = re.compile(r"unexpected keyword argument '(\w+)'")
#: Where mmengine builds what a config names.
_BUILDING = os.path.join('mmengine', 'registry', 'build_functions.py')
#: Errors from these are about the config or the data; from anywhere else they may be bugs of ours.
_LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools')
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FROM_WORKER = re.compile(r'Caught \w+ in DataLoader worker process')

#: Launcher -> a variable that it sets for its processes, and how to start them.
_LAUNCHED = {
    'pytorch': ('RANK', 'tools/dist_train.sh, tools/dist_test.sh or torchrun'),
    'slurm': ('SLURM_PROCID', 'tools/slurm_train.sh, tools/slurm_test.sh or srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}


@contextmanager
def user_errors(cfg: Config | None = None) -> Iterator[None]:
    """Turn errors of a library about a setting into a ConfigError; bugs, and errors of a running model, pass.

    Args:
        cfg: The config that is run, to locate the setting.
    """
    try:
        yield
    except SyntaxError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # mmengine's formatting of the config swallowed it
            raise KeyboardInterrupt from None
        raise
    except UserError as error:
        if not _FROM_WORKER.match(str(error)):
            raise
        # It comes with the traceback, whose last line is the original error.
        raise UserError(str(error).strip().splitlines()[-1].partition(': ')[2]) from error
    except Exception as error:
        if isinstance(error, IndexError) and 'out of bounds' in str(error):
            raise DatasetError(f'a label is outside of the classes of the model: {describe(error)}') from error
        frames = traceback.extract_tb(error.__traceback__)
        folders = tuple(os.path.dirname(sys.modules[name].__file__) for name in _LIBRARIES if name in sys.modules)
        is_of_library = not isinstance(error, RuntimeError) and frames[-1].filename.startswith(folders)
        is_built = any(_BUILDING in frame.filename for frame in frames)
        unknown = _UNKNOWN_SETTING.search(str(error))
        is_of_ours = frames[-1].filename.startswith(_OURS) and not (is_built and unknown)
        if is_of_ours or is_out_of_memory(error) or not (is_built or is_of_library):
            raise
        text = describe(error)
        places = [key for key, _ in settings_in(cfg) if key.rpartition('.')[2] == unknown[1]] if unknown else []
        where = f' ({", ".join(places)})' if places else ''
        name = getattr(cfg, 'filename', None)
        raise ConfigError(f'the config{f" {name}" if name else ""} does not fit: {text}{where}') from error


def describe(error: Exception) -> str:
    """The message of a library's error in one line; with its type and place if it says little."""
    text = str(error.args[0] if error.args else error).partition('. Please check')[0]
    line = next((line.strip() for line in text.splitlines() if line.strip()), '')
    if ' ' in line:
        return line
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f'{os.sep.join(frame.filename.split(os.sep)[-3:])}, line {frame.lineno}'
    return f'{type(error).__name__}: {line or frame.line} ({place})'


@contextmanager
def layer_errors(model: nn.Module) -> Iterator[None]:
    """Name the layer in which the model fails: the channels or classes of a config do not fit."""
    inside: list[nn.Module] = []
    hooks = [register_module_forward_pre_hook(lambda module, _: inside.append(module)),
             register_module_forward_hook(lambda *_: (inside.pop(), None)[1])]
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        if is_out_of_memory(error) or not inside:
            raise
        name = next((name for name, module in model.named_modules() if module is inside[-1]), 'model')
        raise ConfigError(f'{name} ({type(inside[-1]).__name__}) cannot compute: {describe(error)}') from error
    finally:
        for hook in hooks:
            hook.remove()


class NamedSamples:
    """Pipeline of a data set whose errors name the files of the sample.

    Args:
        pipeline: Maps the record of a sample to the sample.
    """

    def __init__(self, pipeline: Callable[[dict], Any]):
        self.pipeline, self.transforms = pipeline, getattr(pipeline, 'transforms', ())

    def __call__(self, record: dict) -> Any:
        decode_as_we_do()  # in a worker that was not forked, too
        # Transforms change the record.
        paths = [str(record[key]) for key in ('img_path', 'seg_map_path') if record.get(key)]
        try:
            return self.pipeline(record)
        except UserError:
            raise
        except Exception as error:
            text = f'{error.filename}: {error.strerror}' if getattr(error, 'strerror', None) else describe(error)
            where = '' if any(path in text for path in paths) else f'{" with ".join(paths)}: '
            raise DatasetError(f'cannot read a sample: {where}{text}') from error


@contextmanager
def dataset_errors(expected: Sequence[str]) -> Iterator[None]:
    """Turn errors of opening a data set into a DatasetError.

    Args:
        expected: The paths that the data set is read from.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        missing = isinstance(error, OSError) and error.filename
        if last.startswith(_OURS) and not missing or _BUILDING in last or _UNKNOWN_SETTING.search(str(error)):
            raise
        reason = describe(error)
        if os.path.join('torch', 'utils', 'data') in last:
            raise ConfigError(f'the settings of the loader of {", ".join(expected)} do not fit: {reason}') from error
        if isinstance(error, KeyError):
            reason = f'an entry has no {error}'
        elif 'need at least one array' in reason:  # what mmengine makes of an empty list
            reason = ('it has no samples left; do its annotations have the classes that the config names, '
                      'and its images the img_suffix?')
        elif missing:
            reason = (f'{error.filename}: {error.strerror} (current directory: {os.getcwd()}); --data-root DIR uses '
                      'another place')
        raise DatasetError(f'cannot read the data set of {", ".join(expected)}: {reason}') from error


def check_launcher(launcher: str) -> None:
    """Raise a ConfigError unless this process was started by ``launcher``."""
    if launcher in _LAUNCHED and _LAUNCHED[launcher][0] not in os.environ:
        raise ConfigError(f'--launcher {launcher} is for processes that were started by it: use '
                          f'{_LAUNCHED[launcher][1]}, or leave it out to run one process')


@contextmanager
def one_report() -> Iterator[None]:
    """Let one process of a run report a user's error, and all end.

    Once the processes are connected, the first that meets an error reports it, and processes that fail because a
    partner is gone stay silent. Before, the first process of each machine reports.
    """
    try:
        yield
    except UserError:
        if not _reports():
            raise SystemExit(1) from None
        raise
    except KeyboardInterrupt:
        if local_rank() != 0:
            raise SystemExit(130) from None
        raise
    except RuntimeError:
        if distributed.is_initialized() and _errors() > 0:
            raise SystemExit(1) from None
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _reports() -> bool:
    return _errors(new=1) == 1 if distributed.is_initialized() else local_rank() == 0


def _errors(new: int = 0) -> int:
    """The number of processes that have failed so far, with ``new`` more."""
    try:
        return distributed.distributed_c10d._get_default_store().add('repvit_mm/errors', new)
    except RuntimeError:  # the process that keeps the count has ended: it has failed
        return 1 + new


def local_rank() -> int:
    """The number of this process on its machine; a ConfigError if the environment has none."""
    text = os.environ.get('LOCAL_RANK', '0')
    if not text.isdecimal():
        raise ConfigError(f'LOCAL_RANK={text} must be a whole number; unset it to run one process')
    return int(text)
