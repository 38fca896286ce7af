"""mmengine's Runner with safe checkpoints, repeatable training, one-line errors, and distributed runs on CPUs."""
import logging
import math
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.error import URLError

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process, master_only
from mmengine.evaluator import Evaluator
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIMIZERS, RUNNERS
from mmengine.runner import BaseLoop, Priority
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import (
    check_classes,
    load_into,
    meta_of,
    patch_readers,
    read_checkpoint,
    tensors_of,
    unwrapped,
)
from ..errors import CheckpointError, ConfigError, DatasetError, did_you_mean, is_interrupt, shortened
from ..io.files import atomic_write, check_folder, remove_partials
from ..network.fusion import fuse
from ..toolboxes import TOOLBOXES
from ..toolboxes.datasets import check_samples, datasets_in, expected_paths, innermost
from ..toolboxes.detection import keep_boxes_precise
from ..training import ChannelsLast
from .hooks import ADDED, REPLACED, LateRemoval, is_shown, quietly
from .loops import WEIGHTS, our_loop, place_samples, protect_workers, seed_all
from .mistakes import NamedSamples, dataset_errors, describe, user_errors
from .prepare import drop_pretrained
from .resuming import latest_checkpoint, read_resumed
from .unread import observed, unread

#: Hint shown if the initial weights cannot be loaded.
_WITHOUT_WEIGHTS = '--no-pretrained starts from random weights'


@RUNNERS.register_module(name='RepViTRunner')
class Runner(mmengine.runner.Runner):
    """mmengine's Runner, for every toolbox.

    - A checkpoint that is resumed or tested must have every tensor; to start from, what fits is loaded. Files are
      read without running code from them, in every published format.
    - A checkpoint is written whole or not at all, and an outdated one is removed after that.
    - A training that diverged stops, and does not save its weights.
    - A resumed training ends with the weights that it would have had without the interruption.
    - Mistakes in the config or the data set become one line, and settings that nothing reads are named.
    - Distributed runs work without a GPU: gloo, and BatchNorm instead of SyncBatchNorm.
    """

    _complete = False  # whether a checkpoint must have every tensor of the model
    asked: Collection[str] = ()  # keys of --cfg-options
    resumed: Any = None  # content of the checkpoint to resume, if it is already read

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None) -> MMLogger:
        """Build the logger, whose terminal is quieter than its file."""
        logger = super().build_logger(log_level, log_file)
        logger.handlers[0].addFilter(is_shown)
        return logger

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Join the processes of the run; with gloo where there is no GPU."""
        patch_readers()
        if get_device() != 'cpu':
            super().setup_env(env_cfg)
            return
        with mock.patch.object(torch.cuda, 'set_device'):  # mmengine would choose a GPU regardless
            super().setup_env({**env_cfg, 'dist_cfg': {**env_cfg.get('dist_cfg', {}), 'backend': 'gloo'}})

    def build_model(self, model: Any) -> nn.Module:
        """Build the model; one that is resumed loads no weights to start from."""
        if self._resume and isinstance(model, Mapping):
            drop_pretrained(model)
        return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
        """Move the model to its device, with precise boxes and in its memory format, and wrap it for distributed runs.
        """
        if get_device() == 'cpu' and self.distributed and not is_model_wrapper(model):
            self.cfg.sync_bn = None
            model = revert_sync_batchnorm(model)
            unused = self.cfg.get('find_unused_parameters', False)
            model_wrapper_cfg = {'broadcast_buffers': False, 'find_unused_parameters': unused,
                                 **(model_wrapper_cfg or {}), 'device_ids': None}
        keep_boxes_precise(model)
        for hook in self.cfg.get('custom_hooks') or ():
            if isinstance(hook, Mapping) and hook.get('type') in (ChannelsLast.__name__, ChannelsLast):
                HOOKS.build(hook).change_format(model)
        return super().wrap_model(model_wrapper_cfg, model)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | Mapping[str, Any], seed: int | None = None,
                         diff_rank_seed: bool = False) -> DataLoader:
        """Build a loader, and check that its data set exists, can be read and is not empty."""
        datasets = datasets_in(dataloader.get('dataset') if isinstance(dataloader, Mapping) else None)
        expected = [path for dataset in datasets for path in expected_paths(dataset)]
        with dataset_errors(expected):
            loader = quietly(mmengine.runner.Runner.build_dataloader)(dataloader, seed, diff_rank_seed)
        protect_workers(loader)
        for toolbox in TOOLBOXES.values():
            toolbox.check_dataset(loader.dataset)
        check_samples(loader.dataset, expected)
        for dataset in innermost(loader.dataset):
            if callable(getattr(dataset, 'pipeline', None)):
                dataset.pipeline = NamedSamples(dataset.pipeline)
        if not len(loader):  # which mmengine would report as an error of its own
            raise DatasetError(f'the {len(loader.dataset)} samples of {", ".join(expected)} are fewer than a batch of '
                               f'{loader.batch_size} for each process, and incomplete batches are dropped '
                               '(drop_last=True); set a smaller one, e.g. --cfg-options train_dataloader.batch_size=8')
        return loader

    def build_train_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        """Build the training loop; mmengine's become ours, which can be repeated."""
        ours = our_loop(loop)
        if ours is not loop:
            loader = self.build_dataloader(self._train_dataloader, self.seed,
                                           self._randomness_cfg.get('diff_rank_seed', False))
            self._train_dataloader = place_samples(loader, self.seed)
        return super().build_train_loop(ours)

    def build_val_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        """Build the loop of validations, which keeps images of several shapes apart."""
        return super().build_val_loop(our_loop(loop, 'ValLoop'))

    def build_test_loop(self, loop: BaseLoop | Mapping[str, Any]) -> BaseLoop:
        """Build the loop of tests, which keeps images of several shapes apart."""
        return super().build_test_loop(our_loop(loop, 'TestLoop'))

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator that prints nothing but its metrics."""
        evaluator = quietly(super().build_evaluator)(evaluator)
        evaluator.evaluate = quietly(evaluator.evaluate)
        return evaluator

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimiser; an unknown type is an error, and settings of parameters that do not exist are named."""
        kind = (optim_wrapper.get('optimizer') or {}).get('type') if isinstance(optim_wrapper, Mapping) else None
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:  # mmengine: None is not a callable object
            raise ConfigError(f'optim_wrapper.optimizer.type={kind} is not a known optimiser'
                              f'{did_you_mean(kind, OPTIMIZERS.module_dict)}')
        paramwise = (optim_wrapper.get('paramwise_cfg') or {}) if isinstance(optim_wrapper, Mapping) else {}
        names = [name for name, _ in self.model.named_parameters()]
        for key in paramwise.get('custom_keys') or {}:
            if not any(key in name for name in names):
                text = f'optim_wrapper.paramwise_cfg.custom_keys.{key} matches no parameter of the model'
                if any(asked.startswith('optim_wrapper.paramwise_cfg.custom_keys') for asked in self.asked):
                    raise ConfigError(text)
                print_log(text, 'current', logging.WARNING)  # configs of the toolboxes have such keys
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules; a linear one of a single step would keep its first factor for good."""
        for settings in scheduler if isinstance(scheduler, list | tuple) else [scheduler]:
            if not isinstance(settings, Mapping) or settings.get('type') != 'LinearLR':
                continue
            begin, end = settings.get('begin', 0), settings.get('end', math.inf)
            if end - begin < 2 and not settings.get('convert_to_iter_based'):
                raise ConfigError(f'param_scheduler: LinearLR from {begin} to {end} never reaches the full learning '
                                  'rate; expected at least two steps')
        return super().build_param_scheduler(scheduler)

    def report_unread(self, event: str) -> None:
        """Warn of settings that nothing has read.

        Args:
            event: See :func:`repvit_mm.engine.unread.unread`.

        Raises:
            ConfigError: If ``--cfg-options`` set one of them, unless a training would be lost.
        """
        found = unread(self.cfg._cfg_dict, event)
        own = [text for key, text in found.items() if f'{key}.'.startswith(tuple(f'{asked}.' for asked in self.asked))]
        if own and event != 'val':
            raise ConfigError(f'--cfg-options without effect: {", ".join(own)}')
        if found:
            print_log(f'settings without effect: {", ".join(found.values())}', 'current', logging.WARNING)

    def _init_model_weights(self) -> None:
        seed_all(self.seed, WEIGHTS)  # independent of earlier draws, such as those of data sets
        try:
            super()._init_model_weights()
        except (CheckpointError, URLError) as error:
            raise CheckpointError(f'{error}; {_WITHOUT_WEIGHTS}') from error

    def train(self) -> nn.Module:
        """Train; mistakes of the user raise a UserError, and Ctrl-C says how to continue."""
        earlier = None if self._resume else latest_checkpoint(self.work_dir)
        if earlier:
            print_log(f'{self.work_dir} holds an earlier training with {earlier.name}: its checkpoints are '
                      'overwritten; --work-dir DIR keeps them, --resume continues them', 'current', logging.WARNING)
        self.outdated = LateRemoval()
        if is_main_process():
            remove_partials(Path(self.work_dir))
        try:
            with user_errors(self.cfg):
                return super().train()
        except BaseException as error:
            if not is_interrupt(error):
                raise
            if self.distributed:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun sends it again
            if (last := latest_checkpoint(self.work_dir)) != earlier:
                raise KeyboardInterrupt(f'the same command with --resume continues from {last}') from None
            raise

    def test(self) -> dict[str, float]:
        """Test the model that ``load_from`` names, all of it; mistakes of the user raise a UserError."""
        self._complete = True
        # With EMAHook, the saved weights are already the averaged ones, and its copy of the model would stay unfused.
        self._hooks = [hook for hook in self._hooks if type(hook) is not EMAHook]
        self.model.eval()  # fused checkpoints are for evaluation mode only
        with user_errors(self.cfg):
            return super().test()

    def resume(self, filename: str | Path, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: str | Callable = 'default') -> None:
        """Resume the training of a checkpoint; the arguments are mmengine's.

        Raises:
            CheckpointError: If it cannot be read, or its state is not that of such a training.
        """
        try:
            super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f'{filename} does not hold the state of a training with this config: '
                                  f'{describe(error)}; --cfg-options load_from={filename} starts from its weights'
                                  ) from error

    def load_checkpoint(self, filename: str | Path, map_location: str | Callable = 'cpu',
                        strict: bool = False,
                        revise_keys: Sequence[tuple[str, str]] = ((r'^module.', ''),)) -> dict[str, Any]:
        """Load a checkpoint of any published format into the model.

        Args:
            filename: See :func:`repvit_mm.load_checkpoint`.
            map_location: Not used: files are read into main memory, and the tensors copied from there.
            strict: Whether the model has to find all of its tensors; always so in tests and when resuming.
            revise_keys: Not used: published formats are recognised.

        Returns:
            Content of the file, with the weights under ``state_dict``.

        Raises:
            CheckpointError: If the file cannot be downloaded or read, or does not fit.
        """
        try:
            checkpoint, self.resumed = self.resumed or read_checkpoint(filename), None
        except CheckpointError as error:
            if self._complete or self._resume:
                raise
            raise CheckpointError(f'{error}; {_WITHOUT_WEIGHTS}') from error
        if not isinstance(checkpoint, Mapping) or 'state_dict' not in checkpoint:
            checkpoint = {'state_dict': tensors_of(checkpoint, filename)}
        meta = meta_of(checkpoint)
        if self._resume and not all(isinstance(meta.get(key), int) and meta[key] >= 0 for key in ('epoch', 'iter')):
            raise CheckpointError(f'{filename} holds weights, but not the state of a training to resume; '
                                  '--cfg-options load_from=PATH starts from its weights')
        if self._resume:
            self._check_optimizer(checkpoint.get('optimizer'), filename)
        if self._resume or self._complete:
            loader = getattr(self._test_loop if self._complete else self._train_loop, 'dataloader', None)
            classes = (getattr(getattr(loader, 'dataset', None), 'metainfo', None) or {}).get('classes')
            check_classes(checkpoint, classes if isinstance(classes, list | tuple) else None, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        report = load_into(self.model, checkpoint, str(filename), strict or self._complete or self._resume)
        if self._complete and report and report.found.fused:  # keep the fused form, for its speed
            fuse(unwrapped(self.model), inplace=True)
        self._has_loaded = True
        return checkpoint

    def _check_optimizer(self, state: Any, filename: str | Path) -> None:
        """Refuse the state of another optimiser; torch takes any with as many parameters."""
        if not isinstance(state, Mapping) or not isinstance(self.optim_wrapper, OptimWrapper):
            return
        theirs, ours = (set(group) - {'params', 'initial_lr'} for group in (
            next(iter(state.get('param_groups') or ()), {}), self.optim_wrapper.optimizer.param_groups[0]))
        if theirs - ours and ours - theirs:  # in one direction only, they are of two versions of torch
            raise CheckpointError(
                f'{filename} holds the state of another optimiser, which has {shortened(sorted(theirs - ours))} and '
                f'not {shortened(sorted(ours - theirs))}; --cfg-options load_from={filename} starts from its weights')

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register mmengine's hooks and ours."""
        super().register_default_hooks(hooks)
        for kind in ADDED:
            self.register_hook(kind())

    def register_hook(self, hook: Hook | dict[str, Any], priority: int | str | Priority | None = None) -> None:
        """Register a hook; see mmengine. Its CheckpointHook and LoggerHook become ours."""
        if isinstance(hook, Mapping) and hook.get('type') in REPLACED:
            hook = {**hook, 'type': REPLACED[hook['type']]}
        super().register_hook(hook, priority)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, file_client_args: Mapping[str, Any] | None = None,
                        save_optimizer: bool = True, save_param_scheduler: bool = True,
                        meta: dict[str, Any] | None = None, by_epoch: bool = True,
                        backend_args: Mapping[str, Any] | None = None) -> None:
        """Save a checkpoint, whole or not at all; the arguments are mmengine's."""
        backend = get_file_backend(out_dir, backend_args=backend_args)
        is_local = file_client_args is None and isinstance(backend, LocalBackend)
        with atomic_write(Path(out_dir, filename)) if is_local else nullcontext() as path:
            super().save_checkpoint(str(path.parent) if is_local else out_dir, filename, file_client_args,
                                    save_optimizer, save_param_scheduler, meta, by_epoch, backend_args)
        self.outdated.remove_outdated()


def run(cfg: Config, task: str, asked: Collection[str] = ()) -> None:
    """Run a config.

    Args:
        cfg: The config, from :func:`repvit_mm.engine.prepare.prepare`; ``runner_type`` may name another runner.
        task: ``'train'`` or ``'test'``.
        asked: Keys of ``--cfg-options``; one that nothing reads is an error.

    Raises:
        UserError: If config, data set or checkpoint do not fit, or the work directory cannot be created.
    """
    check_folder(cfg.work_dir, 'last_checkpoint', '--work-dir')
    resumed = read_resumed(cfg) if task == 'train' else None
    # Keys that note that they are read: report_unread names the others.
    cfg = Config(observed(cfg._cfg_dict), cfg_text=cfg.text, filename=cfg.filename)
    with user_errors(cfg):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.asked, runner.resumed = asked, resumed
    del resumed  # a large object
    getattr(runner, task)()
