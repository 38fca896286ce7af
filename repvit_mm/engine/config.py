"""Find and read configs, and override their settings."""
import contextlib
import inspect
import io
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints import patch_readers
from ..errors import ConfigError, did_you_mean, first_line, shortened

#: Our configs: included in a wheel, linked in a checkout.
INSTALLED_CONFIGS = Path(__file__).resolve().parents[1] / '.mim' / 'configs'
#: Suffixes of the files that mmengine reads as configs.
CONFIG_SUFFIXES = ('.py', '.yml', '.yaml', '.json')
#: Top-level keys of a config that a run reads, in addition to the arguments of mmengine's Runner.
_RUN_KEYS = {'custom_imports', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'runner_type',
             'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'tta_model', 'tta_pipeline'}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config, override settings in it, and import its toolbox.

    Args:
        path: The config file, see :func:`find_config`.
        options: Dotted key -> value, from ``--cfg-options``.

    Raises:
        ConfigError: If the file does not exist or cannot be read, or an option cannot be applied.
    """
    from ..toolboxes import toolbox_of
    patch_readers()
    path = find_config(path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and can raise anything
        hint = ('; a path with an apostrophe breaks configs with {{ fileDirname }}: rename the folder'
                if isinstance(error, SyntaxError) and "'" in os.path.abspath(path) else '')
        raise ConfigError(f'config {path} cannot be read: {type(error).__name__}: {first_line(error)}{hint}') from error
    finally:
        print(re.sub('Could not import OneDL.*\n', '', printed.getvalue()), end='')  # an optional package's
    for key in options or {}:
        _check_option(cfg, key)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options cannot be applied to {path}: {type(error).__name__}: {first_line(error)}'
                          ) from error
    toolbox_of(cfg).import_toolbox(path)
    return cfg


def find_config(path: str | Path) -> Path:
    """Find a config file: ``path`` itself, or else the config of that name installed with this package or a toolbox.

    Args:
        path: A file, or an installed config as ``configs/detection/x.py``, ``detection/x.py``,
            ``repvit_mm::detection/x.py``, ``x`` or ``mmdet::yolox/x.py``.

    Raises:
        ConfigError: If it does not exist.
    """
    path = Path(path).expanduser()
    return path if path.is_file() else Path(config_path(str(path)))


@cache
def installed_configs() -> dict[str, Path]:
    """The configs installed with this package: name without folder and suffix -> file."""
    return {file.stem: file for file in sorted(INSTALLED_CONFIGS.glob('*/*.py'))}


def config_path(name: str) -> str:
    """Path of a config installed with this package, for ``_base_`` in a config of another project.

    Args:
        name: The config, for example ``detection/maskrcnn_repvit_m1_1.py`` or ``maskrcnn_repvit_m1_1``; or a toolbox's
            with its scope, ``mmdet::yolox/yolox_s_8xb8-300e_coco.py``.

    Raises:
        ConfigError: If it does not exist.

    Example:
        mmengine resolves ``_base_`` before it runs the config's imports, but it evaluates an expression:

        >>> _base_ = __import__('repvit_mm').config_path('detection/maskrcnn_repvit_m1_1.py')
    """
    scope, _, bare = name.removeprefix('repvit_mm::').rpartition('::')
    bare = bare.removeprefix(f'configs{os.sep}')
    folder = _configs_of(scope) if scope else INSTALLED_CONFIGS
    path = folder / bare if scope else installed_configs().get(bare, folder / bare)
    if not path.is_file():
        beside = [str(file) for file in Path(name).parent.glob('*.py')]
        installed = [file.relative_to(folder).as_posix() for file in sorted(folder.glob('*/*.py'))]
        hint = did_you_mean(name, beside) or did_you_mean(bare, installed, f'; the installed ones are in {folder}')
        raise ConfigError(f'there is no config {name}{hint}')
    return str(path)


def _configs_of(scope: str) -> Path:
    """The configs installed with a toolbox, where mmengine looks for a ``_base_``."""
    from ..toolboxes import TOOLBOXES
    spec = find_spec(scope) if scope in TOOLBOXES else None
    if spec is None:
        raise ConfigError(f'{scope}:: is not an installed toolbox; expected one of {", ".join(TOOLBOXES)}')
    return Path(spec.origin).parent / '.mim' / 'configs'


def add_scopes(packages: dict[str, str]) -> None:
    """Register the name before ``::`` in ``_base_ = 'repvit_mm::detection/...'`` with mmengine.

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


def settings_in(settings: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting of a config, sections first."""
    items = settings.items() if isinstance(settings, Mapping | Config) else enumerate(settings) if isinstance(
        settings, list | tuple) else ()
    for key, value in items:
        yield f'{prefix}{key}', value
        yield from settings_in(value, f'{prefix}{key}.')


def _check_option(cfg: Config, key: str) -> None:
    """Refuse a top-level key that no run reads: the option would have no effect."""
    from mmengine.runner import Runner
    read = {*_RUN_KEYS, *list(inspect.signature(Runner.__init__).parameters)[1:]}
    name = key.partition('.')[0]
    if name in read:
        return
    if name == 'data_root':  # a variable of the config, which uses it before options are applied
        raise ConfigError('--cfg-options data_root has no effect; use --data-root, which changes every loader and '
                          'evaluator')
    if name not in cfg:
        raise ConfigError(f'--cfg-options {key}: unknown setting {name}{did_you_mean(name, {*cfg, *read})}')
    # Any other name may be for a hook of the user's project.
    used = [place for place, value in settings_in(cfg) if place.partition('.')[0] in read
            and (place.endswith(f'.{name}') or (value and isinstance(value, Mapping | list) and value == cfg[name]))]
    if used:
        raise ConfigError(f'--cfg-options {key} has no effect: the config has used its variable {name} already; set '
                          f'{shortened(used, 3)}')
