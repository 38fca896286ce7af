"""mmdet's data set and metric on annotations as tools write them: the right objects, and perfect predictions are."""
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from PIL import Image
from pycocotools import mask as mask_utils

from repvit_mm.engine.runner import Runner
from repvit_mm.errors import DatasetError
from repvit_mm.toolboxes.detection import Detection

pytest.importorskip('mmdet')

WIDTH, HEIGHT = 30, 40  # upright
CLASSES = ('square', 'disc')
BOXES = [[2, 3, 10, 12], [12, 25, 14, 13]]
SPOILED = {
    'as it should be': lambda content: None,
    'ids from 0': lambda content: [item.update(id=i) for i, item in enumerate(content['annotations'])],
    'ids as text': lambda content: [item.update(id=f'a{i}') for i, item in enumerate(content['annotations'])],
    'repeated ids': lambda content: [item.update(id=1) for item in content['annotations']],
    'size before EXIF': lambda content: [item.update(width=HEIGHT, height=WIDTH) for item in content['images']],
    'names of Windows': lambda content: [item.update(file_name='C:\\x\\' + item['file_name'])
                                         for item in content['images']],
    'no areas and crowds': lambda content: [(item.pop('area'), item.pop('iscrowd')) for item in content['annotations']],
    'root category': lambda content: content['categories'].insert(0, dict(id=0, name='disc', supercategory='none')),
    'byte order mark': None,
}


def rectangle(box):
    left, top, width, height = box
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


@pytest.fixture
def config(tmp_path):
    """A config with photographs that were taken upright, and the annotations of their upright pixels."""
    def config(spoil):
        (tmp_path / 'images').mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        content = dict(images=[], annotations=[], categories=[
            dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)])
        for number in range(2):
            Image.new('RGB', (HEIGHT, WIDTH)).save(tmp_path / f'images/{number}.jpg', exif=exif)
            content['images'].append(dict(id=number, file_name=f'{number}.jpg', width=WIDTH, height=HEIGHT))
            content['annotations'] += [dict(
                id=2 * number + i + 1, image_id=number, category_id=i + 1, bbox=box, area=box[2] * box[3], iscrowd=0,
                segmentation=rectangle(box)) for i, box in enumerate(BOXES)]
        if spoil:
            spoil(content)
        (tmp_path / 'x.json').write_text(json.dumps(content), encoding='utf-8' if spoil else 'utf-8-sig')
        dataset = dict(
            type='CocoDataset', data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='images'),
            metainfo=dict(classes=CLASSES), test_mode=True, pipeline=[
                dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)])
        cfg = Config(dict(model=dict(bbox_head=dict(num_classes=2)), test_dataloader=dict(dataset=dataset)))
        Detection().import_toolbox('my_config.py')
        Detection().adapt_config(cfg, ['test_dataloader'])
        return cfg
    return config


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg.test_dataloader.dataset)


@pytest.mark.parametrize('fault', SPOILED)
def test_every_object_is_where_it_was_drawn_and_perfect_predictions_have_an_ap_of_one(config, tmp_path, fault):
    dataset = build(config(SPOILED[fault]))
    Detection().check_dataset(dataset)
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(type='CocoMetric', ann_file=str(tmp_path / 'x.json'), metric=['bbox', 'segm']))
    metric.dataset_meta = dataset.metainfo
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    for mask, (x, y, w, h) in zip(masks, BOXES, strict=True):
        mask[y:y + h, x:x + w] = True
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in BOXES], dtype=torch.float)
    for i in range(2):
        sample = dataset[i]
        assert sample['img'].shape == (HEIGHT, WIDTH, 3)
        assert sample['gt_bboxes'].tensor.tolist() == boxes.tolist()
        assert sample['gt_bboxes_labels'].tolist() == [0, 1] and not sample['gt_ignore_flags'].any()
        assert (sample['gt_masks'].masks == masks).all()
        found = dict(bboxes=boxes, labels=torch.tensor([0, 1]), scores=torch.ones(2), masks=torch.from_numpy(masks))
        metric.process({}, [dict(img_id=dataset.get_data_info(i)['img_id'], ori_shape=(HEIGHT, WIDTH),
                                 pred_instances=found)])
    figures = metric.evaluate(2)
    assert (figures['coco/bbox_mAP'], figures['coco/segm_mAP']) == (1, 1)


def test_a_category_that_is_not_listed_ends_a_run_in_one_line(config):
    cfg = config(lambda content: content['annotations'][0].update(category_id=7))
    missing = '1 of 4 objects are of the categories 7, which the file does not list'
    with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(DatasetError, match=missing):
        Runner.build_dataloader(dict(cfg.test_dataloader, batch_size=1, sampler=dict(type='DefaultSampler')))


def test_run_lengths_of_crowds_keep_their_mask(config):
    runs = mask_utils.encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8)))
    plain = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * WIDTH])
    dataset = build(config(lambda content: [
        item.update(segmentation=mask, iscrowd=1) for item, mask in zip(
            content['annotations'], [plain, dict(runs, counts=runs['counts'].decode())] * 2, strict=True)]))
    sample = dataset[0]
    assert sample['gt_ignore_flags'].all() and (sample['gt_masks'].masks == 1).all()
