"""AP and mIoU of published models, from a file in the authors' format to the table.

The expected figures are those of timm's backbone in the models, data sets and metrics of mmdet's and mmseg's configs.
"""
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from published_files import draw, official_names, random_model
from pycocotools import mask as mask_tools
from running import run_tool
from torch import nn

from repvit_mm.engine.config import load_config
from repvit_mm.engine.prepare import move_data_root
from repvit_mm.zoo.rows import ROOT

MODEL = """
_base_ = [{bases}]
default_scope = {scope!r}
model = dict({settings}backbone=dict(_delete_=True, type='TimmRepViT', penultimate={penultimate}),
             neck=dict(in_channels=[64, 128, 256, 512]))
"""
#: Table -> our config, and the toolbox's.
CONFIGS = {
    'coco': ('detection/maskrcnn_repvit_m1_1', MODEL.format(
        bases="'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_instance.py'", scope='mmdet',
        settings='', penultimate=True)),
    'ade20k': ('segmentation/fpn_repvit_m1_1', MODEL.format(
        bases="'mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/datasets/ade20k.py'", scope='mmseg',
        settings='pretrained=None, decode_head=dict(num_classes=150), data_preprocessor=dict(size=(512, 512)), ',
        penultimate=False) + """
# A short side of 512, and both sides up to a multiple of 32.
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""),
}
#: Makes a test fast; the rest of the settings is as published.
SMALL = {'test_dataloader.num_workers': 0, 'test_dataloader.dataset.pipeline.1.scale': (160, 96)}


@MODELS.register_module()
class TimmRepViT(nn.Module):
    """The ends of the stages of timm's model, or the inputs of the last block of each."""

    def __init__(self, penultimate):
        super().__init__()
        self.penultimate, self.model = penultimate, random_model('repvit_m1_1', num_classes=0)

    def forward(self, x):
        x, ends, penultimate = self.model.stem(x), [], []
        for number, stage in enumerate(self.model.stages):
            if number:
                x = stage.downsample.pre_block(x)
                ends.append(x)
                x = stage.downsample.channel_downsample(stage.downsample.spatial_downsample(x))
                x = x + stage.downsample.ffn(x)
            x = stage.blocks(x)
            penultimate.append(x)
        return penultimate if self.penultimate else [*ends, x]


def theirs(table, folder):
    path = folder / f'{table}.py'
    path.write_text(CONFIGS[table][1])
    return Config.fromfile(path)


@pytest.mark.parametrize('table', CONFIGS)
def test_all_but_the_backbone_is_set_as_in_the_toolbox(table, tmp_path):
    pytest.importorskip(theirs(table, tmp_path).default_scope)
    ours, base = load_config(ROOT / f'configs/{CONFIGS[table][0]}.py'), theirs(table, tmp_path)
    for cfg in (ours, base):
        del cfg.model.backbone
    for part in ('model', 'train_dataloader', 'test_dataloader', 'test_evaluator'):
        assert ours[part] == base[part], part


def spread(layer, std):
    """Give each channel of a layer's next output mean 0 and a standard deviation, so that results differ."""
    def scale(_, inputs, output):
        handle.remove()
        channels = output.transpose(0, 1).flatten(1)
        factor = std / channels.std(1)
        layer.bias.copy_((layer.bias - channels.mean(1)) * factor)
        layer.weight *= factor.view(-1, *[1] * (layer.weight.ndim - 1))
        return layer(*inputs)
    handle = layer.register_forward_hook(scale)


def predict(dataset, model):
    return [model.test_step(pseudo_collate([dataset[number]]))[0] for number in range(len(dataset))]


def write_coco(path, samples=()):
    """Annotations that the predictions find well, badly, as another class, or not at all."""
    names, objects = DATASETS.get('mmdet.CocoDataset').METAINFO['classes'], []
    for sample in samples:
        found = sample.pred_instances
        for number, (box, label, mask) in enumerate(zip(found.bboxes, found.labels.tolist(), found.masks, strict=True)):
            right = box[2] - 0.12 * (number % 4) * (box[2] - box[0])
            mask = mask.numpy() * (np.arange(mask.shape[1]) < right.item())
            if number % 5 < 4 and mask.sum() >= 20:
                runs = mask_tools.encode(np.asfortranarray(mask, np.uint8))
                objects.append({
                    'id': len(objects) + 1, 'image_id': sample.img_id, 'area': int(mask.sum()),
                    'category_id': 10 * ((label + (number % 7 == 6)) % 80), 'iscrowd': int(number % 11 == 10),
                    'bbox': torch.stack([box[0], box[1], right - box[0], box[3] - box[1]]).tolist(),
                    'segmentation': {'size': runs['size'], 'counts': runs['counts'].decode()}})
    images = [{'id': number, 'file_name': f'{number}.png', 'height': draw(number).height, 'width': draw(number).width}
              for number in (0, 1)]
    path.write_text(json.dumps({'images': images, 'annotations': objects, 'categories': [
        {'id': 10 * number, 'name': name} for number, name in enumerate(names)]}))


def make_coco(cfg, root):
    """The data set and the detector of a config, and its predictions."""
    annotations = root / 'data/annotations/instances_val2017.json'
    write_coco(annotations)
    dataset, model = DATASETS.build(cfg.test_dataloader.dataset), MODELS.build(cfg.model).eval()
    box_head, logits = model.roi_head.bbox_head, model.roi_head.mask_head.conv_logits
    for layer, std in ((model.rpn_head.rpn_cls, 1.), (model.rpn_head.rpn_reg, 0.02), (box_head.fc_cls, 3.),
                       (box_head.fc_reg, 1.), (logits, 2.), *((conv.conv, 1.) for conv in model.neck.lateral_convs)):
        spread(layer, std)
    model.test_step(pseudo_collate([dataset[0], dataset[1]]))
    box_head.fc_cls.bias[80] += 16  # most proposals are background
    samples = predict(dataset, model)
    assert all(len(sample.pred_instances) > 20 for sample in samples)
    write_coco(annotations, samples)
    return dataset, model, samples


def make_ade20k(cfg, root):
    """The data set and the segmentor of a config, and its predictions."""
    labels = root / 'data/annotations/validation'
    for number in (0, 1):
        draw(number).save(root / f'data/images/validation/{number}.jpg')
        Image.new('L', draw(number).size, 1).save(labels / f'{number}.png')
    dataset, model = DATASETS.build(cfg.test_dataloader.dataset), MODELS.build(cfg.model).eval()
    for layer in (model.decode_head.conv_seg, *(conv.conv for conv in model.neck.lateral_convs)):
        spread(layer, 1.)
    model.test_step(pseudo_collate([dataset[0]]))
    for number, sample in enumerate(predict(dataset, model)):
        found = sample.pred_sem_seg.data[0].numpy()
        assert len(np.unique(found)) > 20
        truth = found + 1
        truth[:, :90] = (found[:, :90] + 75) % 150 + 1  # wrong
        truth[:30] = 0  # not labelled
        Image.fromarray(truth.astype(np.uint8)).save(labels / f'{number}.png')
    return dataset, model, predict(dataset, model)


@pytest.mark.slow
@pytest.mark.parametrize(('table', 'make', 'keys'), [
    ('coco', make_coco, {f'{kind} AP{suffix}': f'coco/{name}_mAP{"_" * bool(suffix)}{suffix}'
                         for kind, name in (('box', 'bbox'), ('mask', 'segm')) for suffix in ('', '50', '75')}),
    ('ade20k', make_ade20k, {name: name for name in ('mIoU', 'mAcc', 'aAcc')})])
@torch.no_grad()
def test_the_table_has_the_figures_of_timms_backbone_in_the_toolbox(table, make, keys, tmp_path):
    cfg = theirs(table, tmp_path)
    pytest.importorskip(cfg.default_scope)
    for folder in ('data/val2017', 'data/images/validation', 'data/annotations/validation', 'weights'):
        (tmp_path / folder).mkdir(parents=True)
    for number in (0, 1):
        draw(number).save(tmp_path / f'data/val2017/{number}.png')
    cfg.merge_from_dict(SMALL)
    move_data_root(cfg, str(tmp_path / 'data'))
    load_config(ROOT / f'configs/{CONFIGS[table][0]}.py')  # imports the toolbox
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset, model, samples = make(cfg, tmp_path)
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = dataset.metainfo
        evaluator.process(samples)
        expected = evaluator.evaluate(len(dataset))
    weights = model.state_dict()
    inside = {name.removeprefix('backbone.model.'): weights.pop(name) for name in list(weights) if 'backbone' in name}
    weights |= {f'backbone.{name}': value for name, value in official_names(inside).items()}
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / f'weights/repvit_m1_1_{table}.pth')

    status, _, error = run_tool(
        'reproduce_tables', table, '--models', 'm1_1', '--data-root', f'{table}={tmp_path / "data"}', '--weights',
        tmp_path / 'weights', '--out', tmp_path / 'out', '--cfg-options',
        *(f'{key}={value}'.replace(' ', '') for key, value in SMALL.items()))
    assert status == 0, error
    figures = json.loads((tmp_path / 'out/tables.json').read_text())['figures']
    measured = {one['name']: one['measured'] for one in figures}
    for name, key in keys.items():
        value = expected[key] * (100 if table == 'coco' else 1)
        assert measured[name] == pytest.approx(value, abs=0.2) and 1 < value < 99, (name, measured[name], value)
