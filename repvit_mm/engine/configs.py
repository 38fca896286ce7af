"""Find and read configs, and override settings in them."""
import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints import read_without_code
from ..errors import ConfigError, shortened
from .settings import check_settings

#: Our configs: included in a wheel, linked in a checkout.
INSTALLED_CONFIGS = Path(__file__).resolve().parents[1] / '.mim' / 'configs'
#: Suffixes of the files that mmengine reads as configs.
CONFIG_SUFFIXES = ('.py', '.yml', '.yaml', '.json')
#: Top-level keys of a config that a run reads, in addition to the arguments of mmengine's Runner.
_RUN_KEYS = {'custom_imports', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'runner_type',
             'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'tta_model', 'tta_pipeline'}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config and override settings in it.

    Args:
        path: The config file, see :func:`find_config`.
        options: Dotted key -> value, from ``--cfg-options``.

    Raises:
        ConfigError: If the file does not exist or cannot be read, an option cannot be applied, or a setting is out
            of bounds.
    """
    from ..toolboxes import toolbox_of
    read_without_code()
    path = find_config(path)
    if path.suffix not in CONFIG_SUFFIXES:
        raise ConfigError(f'{path} is not a config file; expected {", ".join(CONFIG_SUFFIXES[:-1])} or '
                          f'{CONFIG_SUFFIXES[-1]}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and can raise anything
        hint = ('; a path with an apostrophe breaks configs with {{ fileDirname }}: rename the folder'
                if isinstance(error, SyntaxError) and "'" in os.path.abspath(path) else '')
        raise ConfigError(f'config {path} cannot be read: {_one_line(error)}{hint}') from error
    for key in options or {}:
        _check_key(cfg, key)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options cannot be applied to {path}: {_one_line(error)}') from error
    try:
        check_settings(cfg._cfg_dict)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error
    toolbox_of(cfg).load(path)
    return cfg


def find_config(path: str | Path) -> Path:
    """Find a config file: ``path`` itself, or else the config of that name installed with this package.

    Args:
        path: A file, or an installed config as ``configs/detection/x.py``, ``detection/x.py``,
            ``repvit_mm::detection/x.py`` or ``x``.

    Raises:
        ConfigError: If it does not exist.
    """
    path = Path(path).expanduser()
    name = str(path).removeprefix('repvit_mm::').removeprefix(f'configs{os.sep}')
    installed = installed_configs().get(name, INSTALLED_CONFIGS / name)  # is path itself if that is absolute
    for file in (path, installed):
        if file.is_file():
            return file
    siblings = [file.name for folder in (path.parent, installed.parent) for file in folder.glob('*.py')]
    close = difflib.get_close_matches(path.name, siblings, n=1)
    raise ConfigError(f'there is no config {path}; '
                      f'{f"did you mean {path.with_name(close[0])}?" if close else _nearest_installed(name)}')


@cache
def installed_configs() -> dict[str, Path]:
    """The configs installed with this package: name without folder and suffix -> file."""
    return {file.stem: file for file in sorted(INSTALLED_CONFIGS.glob('*/*.py'))}


def config_path(name: str) -> str:
    """Path of a config installed with this package, for ``_base_`` in a config of another project.

    Args:
        name: The config, for example ``detection/maskrcnn_repvit_m1_1.py`` or ``maskrcnn_repvit_m1_1``.

    Raises:
        ConfigError: If it does not exist.

    Example:
        mmengine resolves ``_base_`` before it runs the config's imports, but it evaluates an expression:

        >>> _base_ = __import__('repvit_mm').config_path('detection/maskrcnn_repvit_m1_1.py')
    """
    path = installed_configs().get(name, INSTALLED_CONFIGS / name)
    if not path.is_file():
        raise ConfigError(f'there is no config {name}; {_nearest_installed(name)}')
    return str(path)


def add_scopes(packages: dict[str, str]) -> None:
    """Let mmengine know the name before ``::`` in ``_base_ = 'repvit_mm::detection/...'``.

    Also fixes the entry of mmsegmentation: mmengine looks for a distribution of that name, so with the onedl
    fork it would report ``mmseg::`` as not installed.

    Args:
        packages: ``mmengine.config.utils.MODULE2PACKAGE``, scope -> name of the package. Changed in place.
    """
    packages.setdefault('repvit_mm', 'repvit_mm')
    try:
        version('mmsegmentation')
    except PackageNotFoundError:
        if find_spec('mmseg') is not None:
            packages['mmseg'] = 'mmseg'


def _nearest_installed(name: str) -> str:
    found = {file.name: file for file in installed_configs().values()}
    close = difflib.get_close_matches(os.path.basename(name), found, n=1)
    if close:
        return f'did you mean {found[close[0]].relative_to(INSTALLED_CONFIGS)}?'
    return f'the installed ones are in {INSTALLED_CONFIGS}'


def _check_key(cfg: Config, key: str) -> None:
    """Refuse unknown keys at the top level: no run reads them, so a typo would have no effect."""
    from mmengine.runner import Runner
    read = {*_RUN_KEYS, *list(inspect.signature(Runner.__init__).parameters)[1:]}
    known = {*cfg, *read}
    name = key.partition('.')[0]
    if key == 'data_root':  # a variable of the config, which uses it before options are applied
        raise ConfigError('--cfg-options data_root has no effect; use --data-root, which changes every loader and '
                          'evaluator')
    # What a hook of a project may read has a name of its own.
    places = [place for place in places_of(cfg, name) if place.partition('.')[0] in read]
    if name in cfg and name not in read and places:
        raise ConfigError(f'--cfg-options {key} has no effect: the config has used its variable {name} already; set '
                          f'{shortened(places, 3)}')
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {close[0]}?' if close else ''
        raise ConfigError(f'--cfg-options {key}: unknown setting {name}{hint}')


def places_of(settings: Any, name: str, prefix: str = '') -> Iterator[str]:
    """The dotted keys of a config that end in ``name``."""
    if isinstance(settings, Mapping | Config):
        if name in settings:
            yield f'{prefix}{name}'
        for key, value in settings.items():
            yield from places_of(value, name, f'{prefix}{key}.')
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from places_of(value, name, f'{prefix}{index}.')


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
