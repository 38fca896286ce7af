"""Prepares a config for a run: the options of the tool, checks, and defaults of the machine."""
import argparse
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from ..checkpoints import check_finite, read_checkpoint, tensors_of
from ..errors import CheckpointError, ConfigError
from ..toolboxes import toolbox_of
from ..toolboxes.datasets import LOADERS
from .channels import check_channels
from .data import check_data, move_data_root

#: The largest seed that numpy, and so mmengine, accepts.
LARGEST_SEED = 2 ** 32 - 1


def prepare(cfg: Config, args: argparse.Namespace, loaders: tuple[str, ...]) -> None:
    """Apply the options of :func:`repvit_mm.engine.add_common_arguments`, and the settings for a machine without a GPU.

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
    check_data(cfg, loaders)
    toolbox_of(cfg).check_config(cfg, loaders)
    has_gpu = get_device() != 'cpu'
    for loader in LOADERS:
        _complete_loader(cfg, loader, has_gpu)
    if not has_gpu:
        _use_amp_of_cpu(cfg)


def _check_seed(seed: Any) -> None:
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        raise ConfigError(f'randomness.seed={seed} must be a whole number from 0 to {LARGEST_SEED}')


def _complete_loader(cfg: Config, loader: str, has_gpu: bool) -> None:
    settings = cfg.get(loader)
    if not settings:
        return
    for key, value in toolbox_of(cfg).loader_defaults.items():
        settings.setdefault(key, value)
    if not settings.get('num_workers', 0):  # torch refuses to keep workers where it has none
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
    """Replace the mixed precision of a GPU by that of a CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    on_cpu = dict(_AMP_WRAPPERS.values())
    if wrapper.get('type') in on_cpu:
        print_log('There is no GPU: mixed precision uses bfloat16, without loss scaling', 'current')
        wrapper.type = on_cpu[wrapper.type]
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the ratio of the batch size to the one that the config was written for."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ConfigError('--auto-scale-lr needs the batch size that the learning rate is for; add '
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
    """Go on with an earlier run, with its seed, from which the order of its samples follows.

    Args:
        cfg: Changed in place.
        resume: ``'auto'`` for the last checkpoint in the work directory that can be read, or a path.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    if resume == 'auto':
        path, checkpoint = _last_readable(cfg.work_dir)
    else:
        check_weights(resume)
        path, checkpoint = resume, read_checkpoint(resume)
    cfg.resume, cfg.load_from = True, str(path)
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    seed = meta.get('seed') if isinstance(meta, Mapping) else None
    if seed is None:
        return
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') not in (None, seed):
        print_log(f'{path} is from a run with the seed {seed}, which is taken instead of {randomness["seed"]}',
                  'current', logging.WARNING)
    cfg.randomness = {**randomness, 'seed': seed}
    _check_seed(seed)


def _last_readable(work_dir: str | Path) -> tuple[Path, Any]:
    """The newest checkpoint that is complete and finite, and its content."""
    errors = []
    for path in checkpoints_of(work_dir):
        try:
            checkpoint = read_checkpoint(path)
            check_finite(tensors_of(checkpoint, path), path)
            return path, checkpoint
        except CheckpointError as error:
            print_log(f'{error}; looking for the checkpoint before it', 'current', logging.WARNING)
            errors.append(error)
    raise errors[0] if errors else CheckpointError(
        f'nothing to resume: there is no checkpoint in {work_dir}; leave out --resume to start, or name a --work-dir '
        'or a checkpoint')


def resume_by_config(cfg: Config) -> None:
    """Where the config itself says ``resume=True``, go on as :func:`set_resume` does, if there is a checkpoint."""
    if cfg.get('resume'):
        cfg.resume = False
        if cfg.get('load_from') or latest_checkpoint(cfg.work_dir):
            set_resume(cfg, cfg.get('load_from') or 'auto')


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest checkpoint in a work directory, or None."""
    return next(iter(checkpoints_of(work_dir)), None)


def checkpoints_of(work_dir: str | Path) -> list[Path]:
    """The checkpoints in a work directory, the newest first."""
    work_dir = Path(work_dir)
    found = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = work_dir / 'last_checkpoint'
    with suppress(OSError, ValueError):  # its content is not a path
        text = pointer.read_text().strip() if pointer.is_file() else ''
        for path in (work_dir / Path(text).name, Path(text)):  # a copied run resumes from its own checkpoint
            if text and path.is_file():
                return [path, *(other for other in found if other != path)]
    return found


def check_weights(path: str | None) -> None:
    """Raise a CheckpointError if ``path`` is a file's and it is not there; addresses are left to the loading."""
    if path and '://' not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f'there is no checkpoint {path}')
