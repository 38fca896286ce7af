"""Tiny trainings of the three tasks, with everything in them that draws random numbers or keeps a state of its own."""
import argparse
import shutil
from pathlib import Path

import torch
from mmengine.config import Config
from running import forget_runs
from tool_runs import set_up

from repvit_mm.checkpoints import read_checkpoint
from repvit_mm.engine.config import load_config
from repvit_mm.engine.prepare import move_data_root, prepare
from repvit_mm.engine.runner import run

STATES = """
model['backbone']['drop_path_rate'] = 0.2
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
                   dict(type='CosineAnnealingLR', by_epoch=False, begin=5, T_max=20)]
custom_hooks = [dict(type='ModelEmaHook', decay=0.9)]
default_hooks = dict(checkpoint=dict(
    type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2, save_best=None))
"""
#: Toolbox -> what is added to its config in tool_runs.py.
ADDED = {
    'mmdet': """
pipeline = _base_.train_pipeline
pipeline[2:3] = [dict(type='RandomChoiceResize', scales=[(64, 64), (96, 80)], keep_ratio=True),
                 dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')]
train_dataloader.update(
    batch_size=1, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(pipeline=pipeline))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)
""",
    'mmseg': """
pipeline = _base_.train_pipeline
pipeline[2:3] = [dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.), keep_ratio=True)]
pipeline[3]['crop_size'] = (64, 64)
pipeline[-1:-1] = [dict(type='PhotoMetricDistortion')]
train_dataloader['dataset'] = dict(pipeline=pipeline)
train_cfg = dict(max_iters=8, val_interval=5)
""",
    'mmpretrain': """
model['data_preprocessor'] = dict(num_classes=8)
model['train_cfg'] = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)])
train_dataloader['sampler'] = dict(_delete_=True, type='RepeatAugSampler')
train_cfg = dict(max_epochs=2)
""",
}


def make_config(toolbox: str, folder: Path) -> Config:
    """The config of a tiny training, with its data set."""
    folder.mkdir(parents=True)
    path, data = set_up(toolbox, folder)
    path.write_text(path.read_text() + ADDED[toolbox] + STATES)
    cfg = load_config(path)
    move_data_root(cfg, str(data))
    return cfg


def train(cfg: Config, work_dir: Path, resume: bool = False, seed: int | None = 3,
          launcher: str = 'none', **options: object) -> None:
    """Do as ``tools/train.py CONFIG --work-dir WORK_DIR [--resume] --cfg-options OPTIONS``; the config stays."""
    cfg = cfg.copy()
    cfg.merge_from_dict(options)
    args = argparse.Namespace(config=cfg.filename, work_dir=str(work_dir), data_root=None, seed=seed, launcher=launcher,
                              amp=False, auto_scale_lr=False, no_pretrained=False, epochs=None,
                              resume='auto' if resume else None)
    forget_runs()
    prepare(cfg, args, 'train')
    run(cfg, 'train')
    forget_runs()


def states_of(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, their average, the optimiser's."""
    checkpoint = read_checkpoint(path)
    return dict(_tensors({key: checkpoint[key] for key in ('state_dict', 'ema_state_dict', 'optimizer')}))


def _tensors(value, name=''):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f'{name}.{key}')


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """The names of tensors that are not equal to the bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def leave_checkpoint(source: Path, work_dir: Path) -> None:
    """Make a work directory as a kill leaves it: with a checkpoint, and the pointer to it."""
    work_dir.mkdir()
    shutil.copy(source, work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / source.name))
