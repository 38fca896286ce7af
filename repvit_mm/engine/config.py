"""From a config file and the options of a tool to what a run needs."""
import argparse
import difflib
import inspect
import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..arguments import LARGEST_SEED
from ..errors import CheckpointError, ConfigError
from ..segmentation import check_classes
from .categories import check_heads
from .channels import check_channels
from .data import LOADERS, check_data, datasets_of, move_data_root

#: Toolbox -> the packages that have it.
TOOLBOXES = {
    'mmdet': 'mmdet or onedl-mmdetection',
    'mmseg': 'mmsegmentation or onedl-mmsegmentation',
    'mmpretrain': 'mmpretrain or onedl-mmpretrain',
}
#: Our configs, which a wheel carries and a checkout links to.
INSTALLED_CONFIGS = Path(__file__).resolve().parents[1] / '.mim' / 'configs'
#: Endings of the files that mmengine reads as configs.
CONFIG_SUFFIXES = ('.py', '.yml', '.yaml', '.json')
#: What a run reads from the top level of a config, beside the arguments of mmengine's Runner.
_RUN_KEYS = {'custom_imports', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'runner_type',
             'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'tta_model', 'tta_pipeline'}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config and override settings in it.

    Args:
        path: Of the config file, see :func:`find_config`.
        options: Dotted key -> value, as ``--cfg-options`` gives them.

    Raises:
        ConfigError: If there is no such file, it fails, or an option's key cannot be set in it.
    """
    path = find_config(path)
    if path.suffix not in CONFIG_SUFFIXES:
        raise ConfigError(f'{path} is no config: a file {", ".join(CONFIG_SUFFIXES[:-1])} or {CONFIG_SUFFIXES[-1]} is '
                          'expected')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: it can fail in any way
        raise ConfigError(f'config {path} cannot be read: {_one_line(error)}') from error
    for key in options or {}:
        _check_key(cfg, key)
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ConfigError(f'--cfg-options cannot be applied to {path}: {_one_line(error)}') from error
    _check_toolbox(cfg.get('default_scope'), path)
    return cfg


def find_config(path: str | Path) -> Path:
    """The file of a config: ``path`` itself, or else the one of that name that is installed with this package.

    Args:
        path: Of a file; ``configs/detection/x.py``, ``detection/x.py`` and ``repvit_mm::detection/x.py`` name an
            installed one.

    Raises:
        ConfigError: If there is no such file.
    """
    path = Path(path).expanduser()
    name = str(path).removeprefix('repvit_mm::').removeprefix(f'configs{os.sep}')
    installed = INSTALLED_CONFIGS / name  # is path itself where that is absolute
    for file in (path, installed):
        if file.is_file():
            return file
    siblings = [file.name for folder in (path.parent, installed.parent) for file in folder.glob('*.py')]
    close = difflib.get_close_matches(path.name, siblings, n=1)
    raise ConfigError(f'there is no config {path}; '
                      f'{f"did you mean {path.with_name(close[0])}?" if close else _nearest_installed(name)}')


def _nearest_installed(name: str) -> str:
    found = {file.name: file for file in INSTALLED_CONFIGS.glob('*/*.py')}
    close = difflib.get_close_matches(os.path.basename(name), found, n=1)
    if close:
        return f'did you mean {found[close[0]].relative_to(INSTALLED_CONFIGS)}?'
    return f'the installed ones are in {INSTALLED_CONFIGS}'


def prepare(cfg: Config, args: argparse.Namespace, loaders: tuple[str, ...]) -> None:
    """Bring in the options of :func:`repvit_mm.engine.add_common_arguments`, and what a lack of GPUs asks for.

    Args:
        cfg: Changed in place.
        args: The parsed options; ``args.config`` names the config.
        loaders: Keys of the loaders that the run uses; their data sets have to be there.

    Raises:
        UserError: If options and config contradict each other, or a data set is missing.
    """
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    if args.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    _check_seed((cfg.get('randomness') or {}).get('seed'))
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    check_channels(cfg)
    if 'train_dataloader' in loaders:
        _check_length(cfg.get('train_cfg') or {})
    check_data(cfg, loaders)
    if cfg.get('default_scope') == 'mmseg':
        check_classes(cfg, datasets_of(cfg, loaders))
    if cfg.get('default_scope') == 'mmdet':
        check_heads(cfg, datasets_of(cfg, loaders))
    if cfg.get('default_scope') == 'mmpretrain':
        import_module('repvit_mm.classification').fit_to_folder(cfg)
    has_gpu = get_device() != 'cpu'
    for loader in LOADERS:
        _complete_loader(cfg, loader, has_gpu)
    if not has_gpu:
        _use_amp_of_cpu(cfg)


def _check_seed(seed: Any) -> None:
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        raise ConfigError(f'randomness.seed={seed} must be a whole number from 0 to {LARGEST_SEED}')


def _check_length(train_cfg: Mapping[str, Any]) -> None:
    """Training for no step would end as if all were well."""
    for key in ('max_epochs', 'max_iters', 'val_interval'):
        value = train_cfg.get(key, 1)
        if not isinstance(value, int | float) or value < 1 or value % 1 > 0:
            raise ConfigError(f'train_cfg.{key}={value} must be a whole number, at least 1')


def _complete_loader(cfg: Config, loader: str, has_gpu: bool) -> None:
    settings = cfg.get(loader)
    if not settings:
        return
    if cfg.get('default_scope') == 'mmpretrain':  # what mmpretrain's own tools take for granted
        settings.setdefault('pin_memory', True)
        settings.setdefault('persistent_workers', True)
        settings.setdefault('collate_fn', dict(type='default_collate'))
    if not settings.get('num_workers', 0):  # torch refuses to keep workers that there are not
        settings.persistent_workers = False
    if not has_gpu:
        settings.pin_memory = False


#: Optimiser wrapper -> the same in automatic mixed precision, on a GPU and on a CPU.
_AMP_WRAPPERS = {
    'OptimWrapper': ('AmpOptimWrapper', 'Bfloat16OptimWrapper'),
    'AdaptiveClipOptimWrapper': ('AdaptiveClipAmpOptimWrapper', 'AdaptiveClipBfloat16OptimWrapper'),
}


def enable_amp(cfg: Config) -> None:
    """Train in automatic mixed precision: in ``optim_wrapper.dtype``, or else in float16; on a CPU in bfloat16."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind in _AMP_WRAPPERS:
        wrapper.type = _AMP_WRAPPERS[kind][0]
    elif not any(kind in kinds for kinds in _AMP_WRAPPERS.values()):
        raise ConfigError(f'--amp works with {" and ".join(_AMP_WRAPPERS)}, but the config has '
                          f'optim_wrapper.type={kind}')


def _use_amp_of_cpu(cfg: Config) -> None:
    """Make mixed precision as on a GPU that of a CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    on_cpu = dict(_AMP_WRAPPERS.values())
    if wrapper.get('type') in on_cpu:
        print_log('There is no GPU: mixed precision is in bfloat16, without scaling of the loss', 'current')
        wrapper.type = on_cpu[wrapper.type]
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the batch that is trained with over the one that the config was made for."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ConfigError('--auto-scale-lr needs to know the batch that the learning rate is for; add '
                          'auto_scale_lr=dict(base_batch_size=GPUS_TIMES_SAMPLES) to the config')
    cfg.auto_scale_lr.enable = True


def remove_pretrained(cfg: Config) -> None:
    """Start from random weights: drop every ``init_cfg`` that loads a file, and ``load_from``."""
    cfg.model = _without_pretrained(cfg.model)
    cfg.load_from = None


def _without_pretrained(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_without_pretrained(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    copy = type(value)({key: _without_pretrained(item) for key, item in value.items() if key != 'init_cfg'})
    if isinstance(copy.get('pretrained'), str):  # how older heads and backbones name weights
        copy['pretrained'] = None
    init_cfg = value.get('init_cfg')
    if isinstance(init_cfg, list | tuple):
        copy['init_cfg'] = [item for item in init_cfg if not _loads(item)]
    elif 'init_cfg' in value and not _loads(init_cfg):
        copy['init_cfg'] = init_cfg
    return copy


def _loads(init_cfg: Mapping | None) -> bool:
    return bool(init_cfg) and init_cfg.get('type') == 'Pretrained'


def set_resume(cfg: Config, resume: str) -> None:
    """Go on with an earlier run.

    Args:
        cfg: Changed in place.
        resume: ``'auto'`` for the last checkpoint in the work directory, or a path.

    Raises:
        CheckpointError: If there is none.
    """
    path = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if path is None:
        raise CheckpointError(f'nothing to resume: there is no checkpoint in {cfg.work_dir}; leave out --resume '
                              'to start, or name a --work-dir or a checkpoint')
    cfg.resume, cfg.load_from = True, str(path)


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that a run wrote last into its work directory, or None."""
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file() and (text := pointer.read_text().strip()):
        for path in (Path(text), work_dir / Path(text).name):  # the directory may have been moved
            if path.is_file():
                return path
    found = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def check_weights(path: str | None) -> None:
    """Raise a CheckpointError if ``path`` is a file's and it is not there; addresses are left to the loading."""
    if path and '://' not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f'there is no checkpoint {path}')


def _check_key(cfg: Config, key: str) -> None:
    """Nothing reads an unknown key at the top level, so a slip would pass unnoticed."""
    known = {*cfg, *_RUN_KEYS, *list(inspect.signature(Runner.__init__).parameters)[1:]}
    name = key.partition('.')[0]
    if key == 'data_root':  # configs name it, and use it before any option is known
        raise ConfigError('--cfg-options data_root moves nothing; --data-root moves every loader and evaluator')
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {close[0]}?' if close else ''
        raise ConfigError(f'--cfg-options {key}: no run reads {name}{hint}')


def _check_toolbox(scope: str | None, path: Path) -> None:
    if scope not in TOOLBOXES:
        return
    # It says that metrics are not computed, and means those of an evaluator that nobody asked for.
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
    try:
        import_module(scope)
    except ModuleNotFoundError as error:
        if error.name != scope:
            raise
        raise ConfigError(f'config {path} is for {scope}, which is not installed; pip install '
                          f'{TOOLBOXES[scope]}') from error


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
