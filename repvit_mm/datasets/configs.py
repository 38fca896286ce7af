"""Configs for data that were found: a few lines that inherit one of ours."""
import math
from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

import torch

from .config_text import Code, assign
from .found import Found
from .sheet import palette
from .tree import counted

#: Task -> GiB of a GPU's memory from which on a step takes so many pictures; 0 is for a CPU.
BATCHES: Mapping[str, Mapping[int, int]] = {
    'detection': {0: 2, 6: 4, 20: 8}, 'segmentation': {0: 4, 6: 8, 20: 16}, 'classification': {0: 32, 6: 64}}
#: Task -> least steps of a training, and its least and most epochs.
LENGTHS = {'detection': (2000, 6, 100), 'segmentation': (1500, 60, 400), 'classification': (500, 30, 100)}
#: Longer and shorter side of the published detectors' images, and on a CPU.
DETECTION_SCALE, CPU_DETECTION_SCALE = (1333, 800), (640, 480)
#: Shorter side of the published segmentors' images, and on a CPU.
SEGMENTATION_SIDE, CPU_SEGMENTATION_SIDE = 512, 256
STRIDE = 32


class Written(NamedTuple):
    """A config.

    Attributes:
        text: Its content.
        about: Model, weights and length of the training, in one line.
        checkpoint: Name of the last checkpoint.
    """

    text: str
    about: str
    checkpoint: str


def write_config(found: Found, gpu_memory: float) -> Written:
    """Write a config that trains on the data.

    Args:
        found: The data.
        gpu_memory: GiB of the GPU's memory; 0 without a GPU.
    """
    return {'detection': _detection, 'segmentation': _segmentation,
            'classification': _classification}[found.task](found, gpu_memory)


def find_gpu_memory() -> float:
    """GiB of the memory of the first GPU; 0 without one."""
    if not torch.cuda.is_available():
        return 0.
    return torch.cuda.get_device_properties(0).total_memory / 2 ** 30


def _length(found: Found, gpu_memory: float) -> tuple[int, int, int]:
    """Pictures of a step, steps of an epoch, epochs."""
    pictures = len(found.parts['train'].pictures)
    batch = max(size for least, size in BATCHES[found.task].items() if gpu_memory >= least)
    while batch > 2 and batch * 4 > pictures:  # an epoch has some steps
        batch //= 2
    steps = max(1, pictures // batch)
    wanted, least, most = LENGTHS[found.task]
    return batch, steps, min(max(math.ceil(wanted / steps), least), most)


def _median_size(found: Found) -> tuple[int, int]:
    """Longer and shorter side of a typical picture."""
    sizes = [sorted(picture.size) for picture in found.parts['train'].pictures if picture.size] or [[640, 480]]
    return int(median(size[1] for size in sizes)), int(median(size[0] for size in sizes))


def _text(found: Found, model: str, base: str, *blocks: Mapping[str, Any] | str) -> str:
    """A config: what it inherits, then settings; a block that is a text is a comment."""
    train = counted(len(found.parts['train'].pictures), 'pictures')
    text = (f'# {model}, for {train} of {counted(len(found.classes), "classes")}. Written by `repvit-mm init`; '
            f'yours to change.\n_base_ = {base!r}\n\n')
    for block in blocks:
        text += f'# {block}\n' if isinstance(block, str) else ''.join(map(assign, block, block.values())) + '\n'
    return text.rstrip() + '\n'


def _loaders(found: Found, batch: int, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The loaders of all splits; ``train`` and ``val`` are further settings of their data sets."""
    replaced = dict(_delete_=True, type='BaseSegDataset') if found.task == 'segmentation' else {}
    train, val = ({**replaced, 'data_root': Code('data_root'), **found.parts[split].settings, **datasets[split]}
                  for split in ('train', 'val'))
    return dict(data_root=f'{found.root.as_posix()}/',
                train_dataloader=dict(batch_size=batch, dataset=train), val_dataloader=dict(dataset=val),
                test_dataloader=Code('val_dataloader'))


def _detection(found: Found, gpu_memory: float) -> Written:
    batch, steps, epochs = _length(found, gpu_memory)
    name = f'{"Mask" if found.masks else "Faster"} R-CNN on RepViT m1_1'
    classes = Code('len(classes)')
    model = dict(roi_head=dict(bbox_head=dict(num_classes=classes), mask_head=dict(num_classes=classes)))
    evaluator = dict(ann_file=_evaluated(found))
    if not found.masks:
        model = dict(type='FasterRCNN', roi_head=dict(
            bbox_head=dict(num_classes=classes), mask_roi_extractor=None, mask_head=None))
        evaluator['metric'] = 'bbox'
    pipelines, interval = _detection_pipelines(found, gpu_memory), max(1, epochs // 12)
    datasets = {split: dict(metainfo=dict(classes=Code('classes')), **(
        dict(pipeline=Code(f'{name}_pipeline')) if pipelines else {}))
        for split, name in (('train', 'train'), ('val', 'test'))}
    text = _text(
        found, name, 'repvit_mm::detection/finetune_maskrcnn_repvit_m1_1.py',
        dict(classes=tuple(found.classes), model=model), pipelines,
        dict(_loaders(found, batch, datasets), val_evaluator=evaluator, test_evaluator=Code('val_evaluator')),
        dict(max_epochs=epochs, train_cfg=dict(max_epochs=Code('max_epochs'), val_interval=interval),
             param_scheduler=[
                 dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=min(100, steps * epochs // 10)),
                 dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=0, end=Code('max_epochs'),
                      T_max=Code('max_epochs'), convert_to_iter_based=True)],
             default_hooks=dict(checkpoint=dict(
                 interval=interval, max_keep_ckpts=1, save_best=f'coco/{"segm" if found.masks else "bbox"}_mAP'))))
    return Written(text, f'{name}, from COCO weights: {epochs} epochs of {steps} steps of {batch} pictures',
                   f'epoch_{epochs}.pth')


def _evaluated(found: Found) -> str:
    """The annotations for the evaluator, which knows no ``data_root``."""
    path = found.parts['val'].settings['ann_file']
    return path if path.startswith(('{{', '/')) else Code(f'data_root + {path!r}')


def _detection_pipelines(found: Found, gpu_memory: float) -> dict[str, Any]:
    """Pipelines, if they are not those of the base: for boxes alone, and for pictures of another size."""
    most = DETECTION_SCALE if gpu_memory else CPU_DETECTION_SCALE
    # Small objects profit from larger pictures, but not from ever larger ones.
    scale = tuple(min(limit, (2 if gpu_memory else 1) * side)
                  for limit, side in zip(most, _median_size(found), strict=True))
    if found.masks and scale == DETECTION_SCALE:
        return {}
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=found.masks)
    resize = dict(type='Resize', scale=Code('scale'), keep_ratio=True)
    return dict(
        scale=scale,
        train_pipeline=[dict(type='LoadImageFromFile'), load, resize, dict(type='RandomFlip', prob=0.5),
                        dict(type='PackDetInputs')],
        test_pipeline=[dict(type='LoadImageFromFile'), resize, load, dict(
            type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))])


def _segmentation(found: Found, gpu_memory: float) -> Written:
    batch, steps, epochs = _length(found, gpu_memory)
    total = steps * epochs
    interval, warm_up = max(1, total // 10), min(100, total // 10)
    limit, factor = (SEGMENTATION_SIDE, 2) if gpu_memory else (CPU_SEGMENTATION_SIDE, 1)
    side = max(STRIDE, min(limit, factor * _median_size(found)[1]) // STRIDE * STRIDE)
    load, pack, scale = dict(type='LoadAnnotations'), dict(type='PackSegInputs'), Code('(4 * side, side)')
    datasets = {split: dict(metainfo=Code('metainfo'), pipeline=Code(f'{name}_pipeline'))
                for split, name in (('train', 'train'), ('val', 'test'))}
    name = 'Semantic FPN on RepViT m1_1'
    text = _text(
        found, name, 'repvit_mm::segmentation/fpn_repvit_m1_1.py',
        'In the order of the values in the label images; 255 is ignored.',
        dict(metainfo=dict(classes=tuple(found.classes), palette=list(map(list, palette(len(found.classes)))))),
        'Shorter side of the pictures, and side of the squares that are cut out for training.',
        dict(side=side, model=dict(data_preprocessor=dict(size=Code('(side, side)')), backbone=dict(init_cfg=None),
                                   decode_head=dict(num_classes=len(found.classes)))),
        "Weights trained on ADE20K, the backbone's too. The last layer starts at random.",
        dict(load_from='repvit://m1_1_ade20k'),
        dict(train_pipeline=[
            dict(type='LoadImageFromFile'), load,
            dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=Code('(side, side)'), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'), pack],
            test_pipeline=[
                dict(type='LoadImageFromFile'), dict(type='Resize', scale=scale, keep_ratio=True),
                dict(type='ResizeToMultiple', size_divisor=STRIDE), load, pack]),
        _loaders(found, batch, datasets),
        dict(max_iters=total, train_cfg=dict(max_iters=Code('max_iters'), val_interval=interval),
             param_scheduler=[
                 dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=warm_up),
                 dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=warm_up, end=Code('max_iters'))],
             default_hooks=dict(checkpoint=dict(interval=interval, max_keep_ckpts=1, save_best='mIoU'))),
        'The learning rate of the base, 2e-4, is taken for 8 pictures a step, and scaled to those of this machine.',
        dict(auto_scale_lr=dict(enable=True, base_batch_size=8)))
    return Written(text, f'{name}, from ADE20K weights: {total} steps of {batch} pictures, {epochs} epochs',
                   f'iter_{total}.pth')


def _classification(found: Found, gpu_memory: float) -> Written:
    batch, steps, epochs = _length(found, gpu_memory)
    warm_up = epochs // 10
    dataset = dict(corrupt='skip') if found.broken else {}
    loaders = _loaders(found, batch, dict(train=dataset, val=dataset))
    loaders['val_dataloader'] = dict(batch_size=batch, **loaders['val_dataloader'])
    name = 'Classifier RepViT m0_9'
    text = _text(
        found, name, 'repvit_mm::classification/finetune_repvit_m0_9.py', loaders,
        dict(max_epochs=epochs, train_cfg=dict(max_epochs=Code('max_epochs')), param_scheduler=[
            dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warm_up, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=warm_up, end=Code('max_epochs'),
                 convert_to_iter_based=True)]))
    return Written(text, f'{name}, from ImageNet weights: {epochs} epochs of {steps} steps of {batch} pictures',
                   f'epoch_{epochs}.pth')
