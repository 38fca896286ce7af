"""Separates a user's mistakes, reported in one line, from bugs, which keep their traceback."""
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from ..errors import ConfigError, DatasetError, UserError, is_out_of_memory
from .configs import places_of

_UNKNOWN_SETTING = re.compile(r"unexpected keyword argument '(\w+)'")
#: Where mmengine builds what a config names.
_BUILDING = os.path.join('mmengine', 'registry', 'build_functions.py')
_LOADING = os.path.join('torch', 'utils', 'data')
#: What these raise is about the config or the data; from anywhere else it may be a bug of ours.
_LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools')
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FROM_WORKER = re.compile(r'Caught \w+ in DataLoader worker process')


@contextmanager
def user_errors(cfg: Config | None = None) -> Iterator[None]:
    """Turn what a setting or a sample of the data set caused into a UserError; let everything else pass.

    Args:
        cfg: The config that is run, to tell where a setting is.
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
        raise UserError(_last_line(error).partition(': ')[2]) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(_LOADING in frame.filename for frame in frames) and not _is_ours(frames[-1]):
            raise DatasetError(f'cannot read a sample: {_last_line(error)}') from error
        if not _is_config_mistake(error, frames):
            raise
        text = describe(error)
        setting = _UNKNOWN_SETTING.search(text)
        places = ', '.join(places_of(cfg or {}, setting[1])) if setting else ''
        name = getattr(cfg, 'filename', None)
        raise ConfigError(f'the config{f" {name}" if name else ""} does not fit: {_builder(error)}{text}'
                          f'{places and f" ({places})"}') from error


def describe(error: Exception) -> str:
    """What an error of a library says, in one line; with its type, or what it asserts, and place if that is little."""
    text = str(error.args[0] if error.args else error).partition('. Please check')[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if lines and ' ' in lines[0]:
        return lines[0]
    place = f'{os.sep.join(frame.filename.split(os.sep)[-3:])}, line {frame.lineno}'
    if _says_nothing(error) and frame.line and frame.line[-1] not in '(\\':  # all of a statement is on its line
        return f'"{frame.line}" fails ({place})'
    return f'{type(error).__name__}{": " * bool(lines)}{"".join(lines[:1])} ({place})'


def _says_nothing(error: Exception) -> bool:
    return isinstance(error, AssertionError) and not str(error)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else describe(error)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_OURS)


def _is_config_mistake(error: Exception, frames: Sequence[traceback.FrameSummary]) -> bool:
    """Whether a library refused what it was to be built from, or to run on.

    An error in our own code is a bug, and one of torch while a model runs needs the traceback to be understood.
    """
    if _is_ours(frames[-1]) or is_out_of_memory(error):
        return False
    if any(_BUILDING in frame.filename for frame in frames):
        return True
    folders = tuple(os.path.dirname(sys.modules[name].__file__) + os.sep for name in _LIBRARIES if name in sys.modules)
    return not isinstance(error, RuntimeError) and frames[-1].filename.startswith(folders)


def _builder(error: Exception) -> str:
    """The innermost class of the config that was being built, for a message; with its settings if that says nothing."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        kind = frame.f_locals.get('obj_type') if frame.f_code.co_filename.endswith(_BUILDING) else None
        if name := kind if isinstance(kind, str) else getattr(kind, '__name__', None):
            settings = ', '.join(f'{key}={reprlib.repr(value)}' for key, value in frame.f_locals['args'].items())
            return f'{name}({settings}): ' if _says_nothing(error) else f'{name}: '
    return ''


class NamedSamples:
    """A data set's pipeline, whose errors name the files of the sample.

    Args:
        pipeline: What maps the record of a sample to the sample.
    """

    def __init__(self, pipeline: Callable[[dict], Any]):
        self.pipeline, self.transforms = pipeline, getattr(pipeline, 'transforms', ())

    def __call__(self, record: dict) -> Any:
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
    """Turn what fails while a data set is opened into a DatasetError.

    Args:
        expected: The paths that the data set is read from.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if _is_ours(frames[-1]) or _BUILDING in frames[-1].filename or _UNKNOWN_SETTING.search(str(error)):
            raise
        reason = describe(error)
        if isinstance(error, ValueError | TypeError) and _LOADING in frames[-1].filename:
            raise ConfigError(f'the settings of the loader of {", ".join(expected)} do not fit: {reason}') from error
        if isinstance(error, KeyError):
            reason = f'an entry has no {error}'
        elif 'need at least one array' in reason:  # what mmengine makes of an empty list
            reason = ('it has no samples left; do its annotations have the classes that the config names, '
                      'and its images the img_suffix?')
        elif isinstance(error, OSError) and error.filename:
            reason = f'{error.filename}: {error.strerror}'
        raise DatasetError(f'cannot read the data set of {", ".join(expected)}: {reason}') from error
