"""Configs of the installed toolboxes with RepViT m0_6 in the place of their ResNet: one training step, one prediction.

``python tests/peers/zoo_sweep.py TOOLBOX [CONFIG ...]`` runs them in one process, and prints a line of JSON for each.
"""
import copy
import gc
import json
import math
import re
import sys
from importlib import import_module
from pathlib import Path

import torch
from mmengine import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import PixelData

import repvit_mm

ARCH = 'm0_6'
#: Channels of a ResNet-50 -> of RepViT.
CHANNELS = dict(zip((256, 512, 1024, 2048), repvit_mm.out_channels(ARCH), strict=True))
#: Folders whose samples are videos, or labelled and unlabelled images.
OTHER_SAMPLES = ('masktrack_rcnn', 'mask2former_vis', 'qdtrack', 'reid', 'soft_teacher')


def folder_of(toolbox):
    return Path(import_module(toolbox).__file__).parent / '.mim' / 'configs'


def configs(toolbox):
    """One config of each folder of a toolbox's zoo: the shortest name with a ResNet-50."""
    for folder in sorted(folder_of(toolbox).iterdir()):
        names = sorted((path.name for path in folder.glob('*.py') if re.search(r'r(esnet)?50', path.name)),
                       key=lambda name: (len(name), name))
        if names and folder.name not in OTHER_SAMPLES:
            yield f'{folder.name}/{names[0]}'


def with_repvit(model):
    """Replace every ResNet in a model's config, and the channels that follow from it."""
    found = []

    def walk(value, key=''):
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if not isinstance(value, dict):
            is_width = key == 'c1_in_channels' or 'in_channels' in key and value in (1024, 2048)
            return CHANNELS.get(value, value) if is_width else value
        if re.fullmatch(r'(\w+\.)?(DetectoRS_|SE)?ResN\w+', str(value.get('type', ''))):
            count = len(value.get('out_indices', (0, 1, 2, 3)))
            found.append(count)
            return dict(type='RepViT', arch=ARCH, out_indices=tuple(range(4))[-count:])
        return {name: type(item)(CHANNELS.get(n, n) for n in item)
                if name == 'in_channels' and isinstance(item, list | tuple) and set(item) <= set(CHANNELS)
                and len(set(item)) == len(item) and item[-1] > 256 else walk(item, name)
                for name, item in value.items()}
    model = walk(copy.deepcopy(model))
    return model, bool(found)


def batch_for(toolbox, cfg):
    size = 256 if cfg.model.get('num_queries', 0) > 300 else 128  # a transformer needs as many pixels as queries
    if toolbox == 'mmdet':
        from mmdet.testing import demo_mm_inputs
        return demo_mm_inputs(2, image_shapes=[(3, size, size)] * 2, num_items=[3, 2], num_classes=3, with_mask=True,
                              with_semantic=True)
    if toolbox == 'mmseg':
        from mmseg.structures import SegDataSample
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, size, size))),
                                 metainfo=dict(img_shape=(size, size), ori_shape=(size, size))) for _ in range(2)]
    else:
        from mmpretrain.structures import DataSample
        samples = [DataSample().set_gt_label(n) for n in range(2)]
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def run(toolbox, name):
    """The outcome for a config: the loss, or what went wrong."""
    torch.manual_seed(0)
    MessageHub.get_instance('sweep').update_info('iter', 0)  # BoxInst reads it
    cfg = Config.fromfile(folder_of(toolbox) / name)
    init_default_scope(cfg.get('default_scope') or toolbox)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    settings, swapped = with_repvit(cfg.model.to_dict())
    settings = Config(dict(model=settings)).model
    if not swapped:
        return dict(skipped='no ResNet in the model')
    if toolbox == 'mmpretrain' and cfg.model.type != 'ImageClassifier':
        return dict(skipped='it learns from several views of an image')
    settings.pop('pretrained', None)
    if toolbox == 'mmseg':
        settings['data_preprocessor'].update(size=(128, 128))
        settings['data_preprocessor'].pop('size_divisor', None)
        settings['test_cfg'].update(mode='whole')
    model = revert_sync_batchnorm(MODELS.build(settings)).train()
    batch = batch_for(toolbox, cfg)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    trained = [p for module in model.modules() if isinstance(module, repvit_mm.RepViT) for p in module.parameters()]
    model.eval()
    with torch.no_grad():
        predictions = model.test_step(batch)
    return dict(loss=float(loss), finite=math.isfinite(loss) and any(p.grad is not None for p in trained),
                predictions=len(predictions))


def main(toolbox, *names):
    for name in names or configs(toolbox):
        try:
            outcome = run(toolbox, name)
        except Exception as error:
            outcome = dict(error=f'{type(error).__name__}: {" ".join(str(error).split())[-200:]}')
        print(json.dumps(dict(config=name, **outcome)), flush=True)
        DefaultScope._instance_dict.clear()
        gc.collect()


if __name__ == '__main__':
    main(*sys.argv[1:])
