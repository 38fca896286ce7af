"""Prepares a config for a run: the options of the tools, and defaults of the machine."""
import argparse
import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from ..errors import ConfigError, shortened
from ..toolboxes import LOADERS, datasets_of, toolbox_of
from ..toolboxes.datasets import datasets_in, expected_paths
from .config import settings_in
from .mistakes import dataset_errors, user_errors

#: Task -> the loaders that it uses.
LOADERS_OF = {'train': ('train_dataloader', 'val_dataloader'), 'test': ('test_dataloader',)}


def prepare(cfg: Config, args: argparse.Namespace, task: str) -> None:
    """Apply the options of ``tools/train.py`` or ``tools/test.py``, and fit the config to the machine.

    The order matters: ``--epochs`` may read the data set, which ``--data-root`` moves, and the settings of a CPU
    replace those of ``--amp``. The parser has applied ``--device``, and :func:`load_config` ``--cfg-options``;
    :func:`repvit_mm.engine.runner.run` reads what ``--resume`` names.

    Args:
        cfg: Changed in place.
        args: The parsed options; ``args.config`` names the config.
        task: ``'train'`` or ``'test'``.

    Raises:
        UserError: If options and config contradict each other, or model and data set do not fit.
    """
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    if args.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    if args.data_root is not None:
        move_data_root(cfg, args.data_root)
    toolbox_of(cfg).adapt_config(cfg, LOADERS_OF[task])
    if task == 'train':
        if args.amp:
            enable_amp(cfg)
        if args.auto_scale_lr:
            enable_auto_scale_lr(cfg)
        if args.no_pretrained:
            remove_pretrained(cfg)
        if args.epochs:
            set_epochs(cfg, args.epochs)
        if args.resume:
            cfg.resume = args.resume
    fit_to_machine(cfg)


def fit_to_machine(cfg: Config) -> None:
    """Give the loaders the settings of the toolbox, and without a GPU those of a CPU."""
    has_gpu, defaults = get_device() != 'cpu', toolbox_of(cfg).loader_defaults
    for settings in filter(None, map(cfg.get, LOADERS)):
        for key, value in defaults.items():
            settings.setdefault(key, value)
        if not settings.get('num_workers', 0):  # torch refuses to keep workers where it has none
            settings.persistent_workers = False
        if not has_gpu:
            settings.pin_memory = False
    if not has_gpu:
        _use_amp_of_cpu(cfg)


def move_data_root(cfg: Config, root: str) -> None:
    """Make every loader and evaluator use another copy of the data set.

    Args:
        cfg: Changed in place.
        root: Replaces the ``data_root`` of the data sets.

    Raises:
        ConfigError: If the config reads several data sets, or one without a ``data_root``.
    """
    old_roots = set()
    for loader, dataset in datasets_of(cfg):
        if not dataset.get('data_root'):
            raise ConfigError(f'--data-root: the {dataset.get("type", "data set")} of {loader} has no data_root; '
                              'set its paths with --cfg-options')
        old_roots.add(dataset['data_root'].rstrip('/'))
    if len(old_roots) != 1:
        raise ConfigError('--data-root moves one data set, but the config reads '
                          f'{shortened(sorted(old_roots)) or "none"}; set their data_root with --cfg-options')
    old, root = old_roots.pop(), os.path.expanduser(root)
    for key in (*LOADERS, 'val_evaluator', 'test_evaluator', 'data_root'):
        if key in cfg:
            cfg[key] = _moved(cfg[key], old, root)


def _moved(value: Any, old: str, new: str) -> Any:
    """Copy of settings with ``old`` replaced by ``new`` at the start of paths."""
    if isinstance(value, Mapping):
        return type(value)({key: _moved(item, old, new) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, old, new) for item in value)
    if isinstance(value, str) and f'{value}/'.startswith(f'{old}/'):
        return os.path.join(new, value[len(old) + 1:])
    return value


def enable_amp(cfg: Config) -> None:
    """Train in automatic mixed precision: in ``optim_wrapper.dtype``, or else in float16; on a CPU in bfloat16."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind == 'OptimWrapper':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    elif kind not in ('AmpOptimWrapper', 'Bfloat16OptimWrapper'):
        raise ConfigError(f'--amp works with OptimWrapper, but the config has optim_wrapper.type={kind}')


def _use_amp_of_cpu(cfg: Config) -> None:
    """Replace the mixed precision of a GPU by that of a CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        print_log('there is no GPU: mixed precision uses bfloat16, without loss scaling', 'current')
        wrapper.type = 'Bfloat16OptimWrapper'
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the ratio of the batch size to the one that the config was written for."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ConfigError('--auto-scale-lr needs the batch size of the learning rate; add '
                          'auto_scale_lr=dict(base_batch_size=GPUS_TIMES_SAMPLES) to the config')
    cfg.auto_scale_lr.enable = True


def set_epochs(cfg: Config, epochs: int) -> None:
    """Change the length of a training, and its schedules in proportion.

    Args:
        cfg: Changed in place; has its launcher and data root. Where it counts iterations, the data set is read for
            its length.
        epochs: The new length.

    Raises:
        ConfigError: If the config has no length.
        DatasetError: If the data set cannot be read.
    """
    train = cfg.get('train_cfg') or {}
    unit = 'max_epochs' if train.get('max_epochs') else 'max_iters'
    if not (old := train.get(unit)):
        raise ConfigError('--epochs: the config has neither train_cfg.max_epochs nor train_cfg.max_iters')
    train[unit] = length = epochs if unit == 'max_epochs' else epochs * _iterations_of_an_epoch(cfg)

    def scaled(value: int, least: int = 1) -> int:
        return value and max(least, round(value * length / old))
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, Mapping) else schedulers
    for settings in schedulers:
        is_warm_up = settings.get('type') == 'LinearLR' and not settings.get('begin') and settings.get('end')
        if is_warm_up and not settings.get('convert_to_iter_based'):
            settings['end'] = min(settings['end'], scaled(settings['end'], 2))  # see Runner.build_param_scheduler
        elif settings.get('by_epoch', True) == (unit == 'max_epochs'):
            is_whole = settings.get('T_max') == settings.get('end', old) - settings.get('begin', 0)
            settings.update({key: scaled(settings[key]) for key in ('begin', 'end', 'T_max', 'epochs', 'step_size')
                             if settings.get(key)})
            if is_whole:
                settings['T_max'] = settings.get('end', length) - settings.get('begin', 0)
            if 'milestones' in settings:
                settings['milestones'] = [scaled(epoch) for epoch in settings['milestones']]
    # A warm-up may leave nothing of a short training to the schedule after it.
    cfg.param_scheduler = [settings for settings in schedulers
                           if settings.get('begin', 0) < settings.get('end', math.inf)]
    for hook in cfg.get('custom_hooks') or []:
        if 'switch_epoch' in hook:  # of mmdet, which changes the augmentation
            hook['switch_epoch'] = scaled(hook['switch_epoch'])


def _iterations_of_an_epoch(cfg: Config) -> int:
    loader = cfg.train_dataloader
    expected = [path for dataset in datasets_in(loader.dataset) for path in expected_paths(dataset)]
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), user_errors(cfg), dataset_errors(expected):
        samples = len(DATASETS.build(copy.deepcopy(loader.dataset)))
    processes = 1 if cfg.launcher == 'none' else int(os.environ.get('WORLD_SIZE', 1))
    return max(1, samples // (loader.get('batch_size', 1) * processes))


def remove_pretrained(cfg: Config) -> None:
    """Start from random weights: drop every ``init_cfg`` that loads a file, and ``load_from``."""
    cfg.load_from = None
    drop_pretrained(cfg.model)


def drop_pretrained(model: Mapping) -> None:
    """Drop every ``init_cfg`` that loads a file from the settings of a model, in place."""
    for _, settings in [('', model), *settings_in(model)]:
        if not isinstance(settings, Mapping):
            continue
        if isinstance(settings.get('pretrained'), str):  # how older heads and backbones name weights
            settings['pretrained'] = None
        init_cfg = settings.get('init_cfg')
        if isinstance(init_cfg, list | tuple):
            settings['init_cfg'] = [item for item in init_cfg if item.get('type') != 'Pretrained']
        elif init_cfg and init_cfg.get('type') == 'Pretrained':
            del settings['init_cfg']
