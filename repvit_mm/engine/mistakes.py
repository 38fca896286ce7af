"""Separates a user's mistakes, reported in one line, from bugs, which keep their traceback."""
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from ..errors import ConfigError, DatasetError, UserError

_BAD_SETTING = re.compile(r'unexpected keyword argument|missing \d+ required|multiple values for')
_UNKNOWN_SETTING = re.compile(r"unexpected keyword argument '(\w+)'")
_BAD_TYPE = re.compile(r'is not in the .*registry|must contain the key "type"')
#: What mmcv's image loading says of a file that is not an image.
_NO_IMAGE = 'failed to load image'
_LOADING = os.path.join('torch', 'utils', 'data')


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
        lines = str(error).strip().splitlines()
        if len(lines) == 1:
            raise
        # From a worker it comes with the traceback, whose last line is the original error.
        raise UserError(lines[-1].partition(': ')[2]) from error
    except (KeyError, TypeError) as error:
        if not _is_config_mistake(error):
            raise
        text = str(error.args[0]).partition('. Please check')[0].partition('\n')[0]
        setting = _UNKNOWN_SETTING.search(text)
        places = ', '.join(_places(cfg or {}, setting[1])) if setting else ''
        raise ConfigError(f'the config does not fit: {text}{places and f" ({places})"}') from error
    except (OSError, AssertionError) as error:
        if not _is_unreadable_sample(error):
            raise
        # From a worker, the last line is the original error.
        raise DatasetError(f'cannot read a sample: {str(error).strip().splitlines()[-1]}') from error


def _is_config_mistake(error: KeyError | TypeError) -> bool:
    """Whether mmengine could not call a class with the settings of the config, or does not know the class."""
    if not error.args:
        return False
    pattern = _BAD_TYPE if isinstance(error, KeyError) else _BAD_SETTING
    return _raised_by(error, f'{os.sep}mmengine{os.sep}') and pattern.search(str(error.args[0])) is not None


def _places(settings: Any, name: str, prefix: str = '') -> Iterator[str]:
    """The dotted keys of a config that end in ``name``."""
    if isinstance(settings, Mapping | Config):
        if name in settings:
            yield f'{prefix}{name}'
        for key, value in settings.items():
            yield from _places(value, name, f'{prefix}{key}.')
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from _places(value, name, f'{prefix}{index}.')


def _raised_by(error: Exception, package: str) -> bool:
    return package in traceback.extract_tb(error.__traceback__)[-1].filename


def _is_unreadable_sample(error: OSError | AssertionError) -> bool:
    if not any(_LOADING in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
        return False
    return isinstance(error, OSError) or _NO_IMAGE in str(error)


@contextmanager
def dataset_errors(expected: Sequence[str]) -> Iterator[None]:
    """Turn what fails while a data set is opened into a DatasetError.

    Args:
        expected: The paths that the data set is read from.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, AssertionError) as error:
        if isinstance(error, KeyError) and _is_config_mistake(error):
            raise
        reason = str(error.args[-1] if error.args else error).partition('\n')[0]
        if isinstance(error, ValueError) and _raised_by(error, _LOADING):
            raise ConfigError(f'the settings of the loader of {", ".join(expected)} do not fit: {reason}') from error
        if isinstance(error, KeyError):
            reason = f'an entry has no {reason!r}'
        elif 'need at least one array' in reason:  # what mmengine makes of an empty list
            reason = ('it has no samples left; do its annotations have the classes that the config names, '
                      'and its images the img_suffix?')
        elif isinstance(error, OSError) and error.filename:
            reason = f'{error.filename}: {error.strerror}'
        where = ', '.join(expected)
        raise DatasetError(f'cannot read the data set of {where}: {reason or repr(error)}') from error
