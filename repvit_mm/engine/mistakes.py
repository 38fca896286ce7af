"""Mistakes of the user become one line, from one process of a run; bugs keep their traceback.

From the inside out, each context manager turns the errors of a library into a UserError:

- :class:`NamedSamples`: reading a sample; names its files.
- :func:`dataset_errors`: building a data set; names its paths.
- :func:`layer_errors`: the first iteration; names the layer.
- :func:`user_errors`: all of a run; names the setting.

:func:`one_report` then chooses the process that reports it, and :func:`repvit_mm.errors.run_cli` prints the line.
"""
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from torch import distributed, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..errors import ConfigError, DatasetError, UserError, is_first_process, is_out_of_memory
from ..io.toolbox_files import replace_mmcv_decoder
from .config import settings_in

_UNKNOWN_SETTING = re.compile(r"unexpected keyword argument '(\w+)'")
#: Modules in which mmengine builds objects of a config.
_BUILDING = 'mmengine.registry.build_functions'
#: Errors from these are about the config or the data; from anywhere else they may be bugs of ours.
_LIBRARIES = ('mmengine.', 'mmcv.', 'mmdet.', 'mmseg.', 'mmpretrain.', 'pycocotools.', 'torch.utils.data.')
_OURS = __name__.partition('.')[0]
_FROM_WORKER = re.compile(r'Caught \w+ in DataLoader worker process')


@contextmanager
def user_errors(cfg: Config) -> Iterator[None]:
    """Turn errors of a library about a setting into a ConfigError; bugs, and errors of a running model, pass.

    Args:
        cfg: The config that is run, to locate the setting.
    """
    try:
        yield
    except UserError as error:
        if not _FROM_WORKER.match(str(error)):
            raise
        # It comes with the traceback, whose last line is the original error.
        raise UserError(str(error).strip().splitlines()[-1].partition(': ')[2]) from error
    except Exception as error:
        if isinstance(error, IndexError) and 'out of bounds' in str(error):
            raise DatasetError(f'a label is outside of the classes of the model: {describe(error)}') from error
        modules, unknown = _modules(error), _UNKNOWN_SETTING.search(str(error))
        is_built = _BUILDING in modules
        is_of_library = modules[-1].startswith(_LIBRARIES) and not isinstance(error, RuntimeError)
        is_of_ours = modules[-1].startswith(_OURS) and not (is_built and unknown)
        if is_of_ours or is_out_of_memory(error) or not (is_built or is_of_library):
            raise
        places = [key for key, _ in settings_in(cfg) if unknown and key.rpartition('.')[2] == unknown[1]]
        where = f' ({", ".join(places)})' if places else ''
        if unknown and unknown[1] == 'pretrained':  # bases of mmseg set it for their ResNet
            where += '; set model=dict(pretrained=None), and init_cfg in the backbone'
        name = f' {cfg.filename}' if cfg.filename else ''
        raise ConfigError(f'the config{name} does not fit: {describe(error)}{where}') from error


def _modules(error: Exception) -> list[str]:
    """Names of the modules that an error has passed, the one that raised it last."""
    return [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]


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
        replace_mmcv_decoder()  # in a worker that was not forked, too
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
        last, missing = _modules(error)[-1], isinstance(error, OSError) and error.filename
        is_setting = last == _BUILDING or _UNKNOWN_SETTING.search(str(error))
        if is_setting or last.startswith((_OURS, 'torch.utils.data.')) and not missing:
            raise
        reason = describe(error)
        if 'need at least one array' in reason:  # mmengine's error for an empty list
            reason = ('it has no samples left; do its annotations have the classes that the config names, '
                      'and its images the img_suffix?')
        elif missing:
            reason = (f'{error.filename}: {error.strerror} (current directory: {os.getcwd()}); --data-root DIR uses '
                      'another place')
        raise DatasetError(f'cannot read the data set of {", ".join(expected)}: {reason}') from error


@contextmanager
def one_report() -> Iterator[None]:
    """Report a user's error from one process only, then shut down the process group.

    Once the processes are connected, the first that meets an error reports it, and processes that fail because a
    partner is gone stay silent. Before, the first process of each machine reports.
    """
    try:
        yield
    except UserError:
        if _errors(new=1) > 1 if distributed.is_initialized() else not is_first_process():
            raise SystemExit(1) from None
        raise
    except KeyboardInterrupt:
        if not is_first_process():
            raise SystemExit(130) from None
        raise
    except RuntimeError:
        if distributed.is_initialized() and _errors() > 0:
            raise SystemExit(1) from None
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _errors(new: int = 0) -> int:
    """The number of processes that have failed so far, with ``new`` more."""
    try:
        return distributed.distributed_c10d._get_default_store().add('repvit_mm/errors', new)
    except RuntimeError:  # the process that keeps the count has ended: it has failed
        return 1 + new
