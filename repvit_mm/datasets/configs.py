"""Configs for data that were found: they inherit one of ours, and are the user's to change."""
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch

from ..archs import ARCHS
from ..errors import ConfigError
from ..io.drawing import palette
from .dataset import Dataset
from .tree import counted


class Model(NamedTuple):
    """A model that a config can be written for.

    Attributes:
        family: Name for ``--model``, without an architecture.
        task: Its task.
        title: Its name.
        base: Name of the config that is inherited.
        arch: Architecture of that config.
        maps: Stages whose channels the neck or head takes.
        trained: What published weights of the whole model were trained on, or None.
    """

    family: str
    task: str
    title: str
    base: str
    arch: str
    maps: slice
    trained: str | None = None


#: Family -> model. The first one of a task is the default.
MODELS: Mapping[str, Model] = {model.family: model for model in (
    Model('maskrcnn', 'detection', 'Mask R-CNN', 'finetune_maskrcnn_repvit_m1_1', 'm1_1', slice(4), 'COCO'),
    Model('fasterrcnn', 'detection', 'Faster R-CNN', 'finetune_maskrcnn_repvit_m1_1', 'm1_1', slice(4), 'COCO'),
    Model('rtmdet', 'detection', 'RTMDet', 'rtmdet_repvit_m0_9', 'm0_9', slice(1, 4)),
    Model('rtmdet-ins', 'detection', 'RTMDet-Ins', 'rtmdet-ins_repvit_m0_9', 'm0_9', slice(1, 4)),
    Model('fpn', 'segmentation', 'Semantic FPN', 'fpn_repvit_m1_1', 'm1_1', slice(4), 'ADE20K'),
    Model('segformer', 'segmentation', "SegFormer's head", 'segformer_repvit_m0_9', 'm0_9', slice(4)),
    Model('classifier', 'classification', 'Classifier', 'finetune_repvit_m0_9', 'm0_9', slice(3, 4)))}
#: Architectures with published detectors and segmentors.
WHOLE = ('m1_1', 'm1_5', 'm2_3')
#: Task -> GiB of a GPU's memory from which on an iteration takes so many images; 0 is for a CPU.
BATCHES: Mapping[str, Mapping[int, int]] = {
    'detection': {0: 2, 6: 4, 20: 8}, 'segmentation': {0: 4, 6: 8, 20: 16}, 'classification': {0: 32, 6: 64}}
#: Task -> least iterations of a training, and its least and most epochs.
LENGTHS = {'detection': (2000, 6, 100), 'segmentation': (1500, 60, 400), 'classification': (500, 30, 100)}
#: Task -> most iterations over which the learning rate rises.
WARM_UP = {'detection': 100, 'segmentation': 100, 'classification': 500}
STRIDE = 32

DETECTION = """\
classes = {classes}
{model}
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
{loaders}
val_evaluator = dict(ann_file={ann_file}, metric={metric})
test_evaluator = val_evaluator

max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs, val_interval={interval})
auto_scale_lr = dict(base_batch_size={batch})  # what the learning rate is for
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

SEGMENTATION = """\
# In the order of the values in the label images; 255 is ignored.
classes = {classes}
metainfo = dict(classes=classes, palette=[
{palette}])

# Shorter side of the images, and side of the squares that are cut out for training.
side = {side}
{model}train_pipeline = [
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

CLASSIFICATION = """\
size = {size}
train_pipeline = _base_.train_pipeline
train_pipeline[1]['scale'] = size
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = size * 8 // 7
test_pipeline[2]['crop_size'] = size
{model}{loaders}
max_epochs = {epochs}
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end={warm_up}),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True)]
"""


class Choice(NamedTuple):
    """What the user asks for; None leaves it to the data and the machine.

    Attributes:
        model: A family of :data:`MODELS`, an architecture, or both: ``'rtmdet_m0_6'``.
        epochs: Length of the training.
        size: Longer side of the images of a detector, side of those of a segmentor or classifier.
    """

    model: str | None = None
    epochs: int | None = None
    size: int | None = None


class Config(NamedTuple):
    """A config.

    Attributes:
        text: Its content.
        about: Model, weights and length of the training, in one line.
        checkpoint: Name of the last checkpoint.
        shape: Height and width for an export.
    """

    text: str
    about: str
    checkpoint: str
    shape: tuple[int, int]


def find_gpu_memory() -> float:
    """GiB of the memory of the first GPU; 0 without one."""
    return torch.cuda.get_device_properties(0).total_memory / 2 ** 30 if torch.cuda.is_available() else 0.


def choose_model(name: str | None, task: str, masks: bool) -> tuple[str, str]:
    """Family and architecture for a name, see :class:`Choice`; config names work, too.

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


def write_config(dataset: Dataset, gpu_memory: float, choice: Choice) -> Config:
    """Write a config that trains on the data.

    Args:
        dataset: The data.
        gpu_memory: GiB of the GPU's memory; 0 without a GPU.
        choice: What the user asks for.

    Raises:
        ConfigError: See :func:`choose_model`.
    """
    family, arch = choose_model(choice.model, dataset.task, dataset.masks)
    model, train = MODELS[family], dataset.splits['train'].samples
    batch = max(size for least, size in BATCHES[dataset.task].items() if gpu_memory >= least)
    while batch > 2 and batch * 4 > len(train):  # an epoch has some iterations
        batch //= 2
    steps = max(1, len(train) // batch)
    wanted, least, most = LENGTHS[dataset.task]
    epochs = choice.epochs or min(max(math.ceil(wanted / steps), least), most)
    whole = model.trained if arch in WHOLE else None
    settings = dict(classes=_names(dataset.classes), batch=batch, loaders=_loaders(dataset, batch), epochs=epochs,
                    steps=steps, warm_up=max(1, min(WARM_UP[dataset.task], steps * epochs // 10)))
    text, checkpoint, shape = {'detection': _detection, 'segmentation': _segmentation,
                               'classification': _classification}[dataset.task](
        dataset, family, _backbone(model, arch, whole), settings, gpu_memory, choice.size)
    if model.trained:
        text += f'\nload_from = {f"repvit://{arch}_{whole.lower()}" if whole else None!r}\n'
    title = f'{model.title} on RepViT {arch}'
    head = (f'# {title}, for {counted(len(train), "images")} of {counted(len(dataset.classes), "classes")}. Written by '
            f"`repvit-mm init`; yours to change.\n_base_ = 'repvit_mm::{model.task}/{model.base}.py'\n\n")
    return Config(head + text, f'{title}, from {whole or "ImageNet"} weights: {epochs} epochs of {steps} iterations of '
                  f'{counted(batch, "images")}', checkpoint, shape)


def _backbone(model: Model, arch: str, whole: str | None) -> list[str]:
    """Settings of the model for an architecture and its weights."""
    changed = [f'arch={arch!r}'] * (arch != model.arch)
    if whole or changed:
        changed.append('init_cfg=None' if whole else "init_cfg=dict(_delete_=True, type='Pretrained', "
                       f"checkpoint='repvit://{arch}_distill_300e')")
    backbone = [f'backbone=dict({", ".join(changed)})'] * bool(changed)
    if arch == model.arch:
        return backbone
    user = {'classifier': 'head', 'segformer': 'decode_head'}.get(model.family, 'neck')
    widths = list(ARCHS[arch].widths[model.maps])
    return [*backbone, f'{user}=dict(in_channels={widths if len(widths) > 1 else widths[0]})']


def _model(settings: Sequence[str]) -> str:
    """The model of a config; nothing for that of the base."""
    return 'model = dict(\n    {})\n'.format(',\n    '.join(settings)) if settings else ''


def _detection(dataset: Dataset, family: str, model: list[str], settings: dict[str, Any], gpu_memory: float,
               size: int | None) -> tuple[str, str, tuple[int, int]]:
    epochs, masks = settings['epochs'], family in ('maskrcnn', 'rtmdet-ins')
    if family == 'maskrcnn':
        model += ['roi_head=dict(bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes)))']
    elif family == 'fasterrcnn':
        model += ["type='FasterRCNN'", 'roi_head=dict(bbox_head=dict(num_classes=len(classes)), '
                  'mask_roi_extractor=None, mask_head=None)']
    else:
        model += ['data_preprocessor=dict(pad_size_divisor=32)', 'bbox_head=dict(num_classes=len(classes))']
    # Small objects profit from larger images, but not from ever larger ones.
    limits = (1333, 800) if gpu_memory else (640, 480)
    longer, shorter = (min(limit, (2 if gpu_memory else 1) * side)
                       for limit, side in zip(limits, _median_size(dataset), strict=True))
    scale = (size, size) if size else (longer, shorter)
    interval = max(1, epochs // 12)
    ann_file = dataset.splits['val'].settings['ann_file']
    text = DETECTION.format(
        **settings, model=_model(model), scale=scale, masks=masks, interval=interval,
        ann_file=f'"{ann_file}"' if ann_file.startswith(('{{', '/')) else f'data_root + {ann_file!r}',
        metric=['bbox', 'segm'] if masks else repr('bbox'), best='segm' if masks else 'bbox')
    portrait = sum(sample.size[0] < sample.size[1] for sample in dataset.splits['val'].samples) * 2
    height, width = (-(-side // STRIDE) * STRIDE for side in sorted(
        scale, reverse=portrait > len(dataset.splits['val'].samples)))
    return text + RTMDET * family.startswith('rtmdet'), f'epoch_{epochs}.pth', (height, width)


def _segmentation(dataset: Dataset, family: str, model: list[str], settings: dict[str, Any], gpu_memory: float,
                  size: int | None) -> tuple[str, str, tuple[int, int]]:
    limit, factor = (512, 2) if gpu_memory else (256, 1)
    side = max(STRIDE, (size or min(limit, factor * _median_size(dataset)[1])) // STRIDE * STRIDE)
    total = settings['steps'] * settings['epochs']
    head = model.pop()[:-1] + ', ' if family == 'segformer' and model else 'decode_head=dict('
    model = ['data_preprocessor=dict(size=(side, side))', *model, f'{head}num_classes=len(classes))']
    text = SEGMENTATION.format(**settings, palette=_wrapped(map(str, map(list, palette(len(dataset.classes))))),
                               side=side, model=_model(model), iterations=total, interval=max(1, total // 10))
    return text, f'iter_{total}.pth', (side, side)


def _classification(_: Dataset, __: str, model: list[str], settings: dict[str, Any], ___: float,
                    size: int | None) -> tuple[str, str, tuple[int, int]]:
    size = size or 224
    return (CLASSIFICATION.format(**settings, model=_model(model), size=size), f'epoch_{settings["epochs"]}.pth',
            (size, size))


def _median_size(dataset: Dataset) -> tuple[int, int]:
    """Longer and shorter side of a typical image."""
    sizes = [sorted(sample.size) for sample in dataset.splits['train'].samples]
    return int(median(size[1] for size in sizes)), int(median(size[0] for size in sizes))


def _loaders(dataset: Dataset, batch: int) -> str:
    """The loaders of both splits."""
    task = {'detection': ['metainfo=dict(classes=classes)'], 'segmentation': ['metainfo=metainfo'],
            'classification': []}[dataset.task]
    new = ["_delete_=True, type='BaseSegDataset'"] * (dataset.task == 'segmentation')
    text = f'\ndata_root = {f"{dataset.root.as_posix()}/"!r}\n'
    for split, pipeline in (('train', 'train'), ('val', 'test')):
        settings = [f'{key}={_code(value)}' for key, value in dataset.splits[split].settings.items()]
        own = f'batch_size={batch}, ' * (split == 'train' or dataset.task == 'classification')
        lines = ',\n    '.join([*new, 'data_root=data_root', *task, *settings,
                              f'pipeline={pipeline}_pipeline'])
        text += f'{split}_dataloader = dict({own}dataset=dict(\n    {lines}))\n'
    return text + 'test_dataloader = val_dataloader\n'


def _code(value: Any) -> str:
    """Settings as code. In ``{{ fileDirname }}`` mmengine puts a path, perhaps with apostrophes."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_code(item)}" for key, item in value.items())})'
    return f'"{value}"' if str(value).startswith('{{') else repr(value)


def _names(classes: Sequence[str]) -> str:
    return f'(\n{_wrapped(map(repr, classes))},)' if len(str(classes)) > 90 else str(tuple(classes))


def _wrapped(items: Iterable[str]) -> str:
    """Items in lines, none of which is broken."""
    lines = textwrap.wrap(', '.join(item.replace(' ', '\0') for item in items), 112, break_long_words=False,
                          break_on_hyphens=False)
    return textwrap.indent('\n'.join(lines).replace('\0', ' '), ' ' * 4)
