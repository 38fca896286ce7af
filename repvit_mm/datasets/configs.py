"""Configs for recognised data: they inherit one of ours, for the user to edit."""
import math
import os
import re
import shutil
from collections.abc import Mapping
from pprint import pformat
from statistics import median
from typing import Any, NamedTuple

from yapf.yapflib.yapf_api import FormatCode

from ..archs import ARCHS
from ..errors import ConfigError
from ..io.drawing import palette
from .dataset import Dataset
from .tree import counted


class Code(str):
    """Code in a config, such as the name of a variable."""

    __repr__ = str.__str__


class Model(NamedTuple):
    """A model that a config can be written for.

    Attributes:
        task: Its task.
        title: Its name.
        base: Name of the config that is inherited.
        arch: Architecture of that config.
        part: Part of the model that takes the maps of the backbone.
        maps: Stages whose maps it takes.
        settings: Settings of the model for the data.
        trained: What published weights of the whole model were trained on, or None.
    """

    task: str
    title: str
    base: str
    arch: str
    part: str
    maps: slice
    settings: Mapping[str, Any]
    trained: str | None = None


_HEAD = {'num_classes': Code('len(classes)')}
_SQUARE = {'data_preprocessor': {'size': Code('(side, side)')}, 'decode_head': _HEAD}
#: Family for ``--model`` -> model. The first one of a task is the default.
MODELS: Mapping[str, Model] = {
    'maskrcnn': Model('detection', 'Mask R-CNN', 'finetune_maskrcnn_repvit_m1_1', 'm1_1', 'neck', slice(4),
                      {'roi_head': {'bbox_head': _HEAD, 'mask_head': _HEAD}}, 'COCO'),
    'fasterrcnn': Model('detection', 'Faster R-CNN', 'finetune_maskrcnn_repvit_m1_1', 'm1_1', 'neck', slice(4), {
        'type': 'FasterRCNN', 'roi_head': {'bbox_head': _HEAD, 'mask_roi_extractor': None, 'mask_head': None}}, 'COCO'),
    'rtmdet': Model('detection', 'RTMDet', 'rtmdet_repvit_m0_9', 'm0_9', 'neck', slice(1, 4), {'bbox_head': _HEAD}),
    'rtmdet-ins': Model('detection', 'RTMDet-Ins', 'rtmdet-ins_repvit_m0_9', 'm0_9', 'neck', slice(1, 4),
                        {'bbox_head': _HEAD}),
    'fpn': Model('segmentation', 'Semantic FPN', 'fpn_repvit_m1_1', 'm1_1', 'neck', slice(4), _SQUARE, 'ADE20K'),
    'segformer': Model('segmentation', "SegFormer's head", 'segformer_repvit_m0_9', 'm0_9', 'decode_head', slice(4),
                       _SQUARE),
    'classifier': Model('classification', 'Classifier', 'finetune_repvit_m0_9', 'm0_9', 'head', slice(3, 4), {})}
#: Architectures with published detectors and segmentors.
WHOLE = ('m1_1', 'm1_5', 'm2_3')
#: Task -> GiB of GPU memory -> batch size from there on; 0 is for a CPU.
BATCHES: Mapping[str, Mapping[int, int]] = {
    'detection': {0: 2, 6: 4, 20: 8}, 'segmentation': {0: 4, 6: 8, 20: 16}, 'classification': {0: 32, 6: 64}}
#: Task -> least iterations of a training, least and most epochs, and most iterations of a rising learning rate.
SCHEDULES = {'detection': (2000, 6, 100, 100), 'segmentation': (1500, 60, 400, 100),
             'classification': (500, 30, 100, 500)}
STRIDE = 32

DETECTION = """
scale = {scale}  # of the images: width and height at most
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
{model}
metainfo = dict(classes=classes)
{loaders}
val_evaluator = dict(ann_file={ann_file}, metric={metric})
test_evaluator = val_evaluator

max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs, val_interval={interval})
auto_scale_lr = dict(base_batch_size={batch})  # of the learning rate
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={warm_up}),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=1, save_best='coco/{best}_mAP'))
"""

RTMDET = """
# The base is for 300 epochs on 8 GPUs, with mosaics and mixed images until the last 20.
train_cfg.update(dynamic_intervals=None)
custom_hooks = [dict(type='ChannelsLast', on_gpu=False),
                dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.002, update_buffers=True, priority=49)]
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
"""

SEGMENTATION = """
side = {side}  # of the squares that are cut out for training, and the shorter side of the images
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(4 * side, side), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(side, side), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(4 * side, side), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
{model}
# In the order of the values in the label images; 255 is ignored.
metainfo = dict(classes=classes, palette=palette)
{loaders}
max_iters = {iterations}  # {epochs} epochs
train_cfg = dict(max_iters=max_iters, val_interval={interval})
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end={warm_up}),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters)]
default_hooks = dict(checkpoint=dict(interval={interval}, max_keep_ckpts=1, save_best='mIoU'))
# The learning rate of the base, 2e-4, is for 8 images in an iteration, and is scaled to those of this machine.
auto_scale_lr = dict(enable=True, base_batch_size=8)
"""

CLASSIFICATION = """
size = {size}
train_pipeline = _base_.train_pipeline
train_pipeline[1]['scale'] = size
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size * 8 // 7
test_pipeline[2]['crop_size'] = size
{model}
{loaders}
max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end={warm_up}),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True)]
"""
TEMPLATES = {'detection': DETECTION, 'segmentation': SEGMENTATION, 'classification': CLASSIFICATION}


class Config(NamedTuple):
    """A config.

    Attributes:
        name: Its name: that of the data, the model and the architecture.
        text: Its content.
        about: Model, weights and length of the training, in one line.
        checkpoint: Name of the last checkpoint.
        shape: Height and width for an export.
    """

    name: str
    text: str
    about: str
    checkpoint: str
    shape: tuple[int, int]


def find_gpu_memory() -> float:
    """GiB of the memory of the first GPU; 0 without one."""
    if not (shutil.which('nvidia-smi') or shutil.which('rocm-smi')):
        return 0.
    import torch  # takes seconds
    return torch.cuda.get_device_properties(0).total_memory / 2 ** 30 if torch.cuda.is_available() else 0.


def choose_model(name: str | None, task: str, masks: bool) -> tuple[str, str]:
    """Family and architecture for a name: a family of :data:`MODELS`, an architecture, both, or that of a config.

    Raises:
        ConfigError: If there is no such model for the task.
    """
    families = [family for family, model in MODELS.items() if model.task == task]
    words = re.fullmatch(r'(?:finetune_)?([a-z-]*?)_?(?:repvit)?_?(m\d(?:_\d)?)?', name or '')
    family, arch = words.groups() if words else (name, None)
    family = family or ('fasterrcnn' if task == 'detection' and not masks else families[0])
    archs = [arch for arch, spec in ARCHS.items() if not spec.first_version]  # those with published weights
    if family not in families or arch not in (None, *archs):
        raise ConfigError(f'--model {name}: expected a model for {task}, {", ".join(families)}, an architecture, '
                          f'{", ".join(archs)}, or both, such as {families[-1]}_m0_6')
    if family in ('maskrcnn', 'rtmdet-ins') and not masks:
        raise ConfigError(f'--model {name} learns masks, and not all objects have one; choose fasterrcnn or rtmdet')
    return family, arch or MODELS[family].arch


def write_config(dataset: Dataset, gpu_memory: float = 0., model: str | None = None, epochs: int | None = None,
                 size: int | None = None) -> Config:
    """Write a config that trains on the data.

    Args:
        dataset: The data.
        gpu_memory: GiB of the GPU's memory; 0 without a GPU.
        model: See :func:`choose_model`; by the data if None, as all that follow.
        epochs: Length of the training.
        size: Longer side of the images of a detector, side of those of a segmentor or classifier.

    Raises:
        ConfigError: See :func:`choose_model`.
    """
    task, train = dataset.task, dataset.splits['train'].samples
    family, arch = choose_model(model, task, dataset.masks)
    chosen, masks = MODELS[family], family in ('maskrcnn', 'rtmdet-ins')
    weights = chosen.trained if arch in WHOLE else None
    batch = max(number for least, number in BATCHES[task].items() if gpu_memory >= least)
    while batch > 2 and batch * 4 > len(train):  # an epoch has some iterations
        batch //= 2
    steps = max(1, len(train) // batch)
    wanted, least, most, warm_up = SCHEDULES[task]
    epochs = epochs or min(max(math.ceil(wanted / steps), least), most)
    iterations = steps * epochs
    interval = max(steps, iterations // 10) if task == 'segmentation' else max(1, epochs // 12)
    sizes, shape = _sizes(dataset, bool(gpu_memory), size)
    title, number = f'{chosen.title} on RepViT {arch}', counted(len(dataset.classes), 'classes')
    head = (f'# {title}, for {counted(len(train), "images")} of {number}. Written by `repvit-mm init`; yours to '
            f"change.\n_base_ = 'repvit_mm::{task}/{chosen.base}.py'\n\n{_classes(dataset)}")
    body = TEMPLATES[task].format(
        **sizes, **_loaders(dataset, batch), model=_model(chosen, arch, weights), epochs=epochs, batch=batch,
        iterations=iterations, interval=interval,
        warm_up=max(2, min(warm_up, iterations // 10)), masks=masks, best='segm' if masks else 'bbox',
        metric=['bbox', 'segm'] if masks else repr('bbox')) + RTMDET * family.startswith('rtmdet')
    if chosen.trained:
        body += f'\nload_from = {f"repvit://{arch}_{weights.lower()}" if weights else None!r}\n'
    text = head + FormatCode(body, style_config=dict(based_on_style='pep8', column_limit=119))[0]
    about = (f'{title}, from {weights or "ImageNet"} weights: {counted(epochs, "epochs")} of {steps} iterations of '
             f'{counted(batch, "images")}')
    data = re.sub(r'\W+', '_', dataset.root.resolve().name, flags=re.ASCII).strip('_') or 'data'
    return Config(f'{data}_{family}_{arch}', text, about,
                  f'iter_{iterations}.pth' if task == 'segmentation' else f'epoch_{epochs}.pth', shape)


def _classes(dataset: Dataset) -> str:
    """Class names and colours, without yapf, which would take minutes for a thousand classes."""
    values = {} if dataset.task == 'classification' else {'classes': tuple(dataset.classes)}
    if dataset.task == 'segmentation':
        values['palette'] = [*map(list, palette(len(dataset.classes)))]
    return ''.join(f'{name} = ' + pformat(value, width=108, compact=True).replace('\n', '\n' + ' ' * 10) + '\n'
                   for name, value in values.items())


def _loaders(dataset: Dataset, batch: int) -> dict[str, str]:
    """The loaders of both splits, and the annotations for validation."""
    parts = {}
    for split, pipeline in (('train', 'train'), ('val', 'test')):
        settings = {'data_root': Code('data_root'), 'metainfo': Code('metainfo'), **dataset.splits[split].settings,
                    'pipeline': Code(f'{pipeline}_pipeline')}
        if dataset.task == 'classification':
            del settings['metainfo']
        parts[split] = {'batch_size': batch} if split == 'train' or dataset.task == 'classification' else {}
        parts[split].update(num_workers=min(4, os.cpu_count() or 1), dataset=settings)
    ann_file = parts['val']['dataset'].get('ann_file', '')
    return dict(loaders=f'data_root = {f"{dataset.root.as_posix()}/"!r}\ntrain_dataloader = {_code(parts["train"])}\n'
                        f'val_dataloader = {_code(parts["val"])}\ntest_dataloader = val_dataloader\n',
                ann_file=_code(ann_file) if ann_file.startswith(('{{', '/')) else f'data_root + {ann_file!r}')


def _model(chosen: Model, arch: str, weights: str | None) -> str:
    """The model of a config; nothing for that of the base."""
    model = dict(chosen.settings)
    if arch != chosen.arch:
        widths = list(ARCHS[arch].widths[chosen.maps])
        model['backbone'] = dict(arch=arch, init_cfg=dict(
            _delete_=True, type='Pretrained', checkpoint=f'repvit://{arch}_distill_300e'))
        model[chosen.part] = {'in_channels': widths if len(widths) > 1 else widths[0], **model.get(chosen.part, {})}
    if weights:
        model['backbone'] = {**model.get('backbone', {}), 'init_cfg': None}
    return f'model = {_code(model)}' if model else ''


def _sizes(dataset: Dataset, gpu: bool, size: int | None) -> tuple[dict[str, Any], tuple[int, int]]:
    """The sizes of images in a config, and height and width for an export."""
    if dataset.task == 'classification':
        return dict(size=size or 224), (size or 224,) * 2
    sides = [sorted(sample.size) for sample in dataset.splits['train'].samples]
    shorter, longer = (int(median(side)) for side in zip(*sides, strict=True))
    if dataset.task == 'segmentation':
        side = max(STRIDE, (size or min(512 if gpu else 256, (1 + gpu) * shorter)) // STRIDE * STRIDE)
        sizes, fit = dict(side=side), (side, side * longer / shorter)
    else:  # small objects profit from larger images, but not from ever larger ones
        limits = (1333, 800) if gpu else (640, 480)
        scale = (size, size) if size else (min(limits[0], (1 + gpu) * longer), min(limits[1], (1 + gpu) * shorter))
        sizes, fit = dict(scale=scale), (size * shorter / longer, size) if size else scale
    portrait = median(sample.size[1] - sample.size[0] for sample in dataset.splits['val'].samples) > 0
    height, width = (math.ceil(side / STRIDE) * STRIDE for side in sorted(fit, reverse=portrait))
    return sizes, (height, width)


def _code(value: Any) -> str:
    """Settings as code. In ``{{ fileDirname }}`` mmengine puts a path, perhaps with apostrophes."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_code(item)}" for key, item in value.items())})'
    return f'"{value}"' if str(value).startswith('{{') else repr(value)
