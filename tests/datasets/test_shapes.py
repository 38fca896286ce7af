"""The three folder layouts, as the toolboxes and pycocotools read them, and that no folder is ever half written."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import run_tool

from repvit_mm.datasets import shapes
from repvit_mm.datasets.scenes import CLASSES, SceneSpec, draw_scene
from repvit_mm.datasets.shapes import write_classification, write_coco, write_multilabel, write_segmentation
from repvit_mm.errors import ConfigError, DatasetError, UserError

TOOL = Path(__file__).parents[2] / 'tools/draw_shapes.py'
SPEC = SceneSpec(size=64)
SETTINGS = dict(spec=SPEC, seed=3, train=6, val=2, quiet=True)
WRITERS = pytest.mark.parametrize('write', [write_coco, write_segmentation, write_classification, write_multilabel])


def scene(split, index):
    return draw_scene(SPEC, (3, ('train', 'val').index(split), index))


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize('split, count', [('train', 6), ('val', 2)])
def test_coco_annotations_are_what_is_visible(tmp_path, split, count):
    from pycocotools import mask as mask_utils
    from pycocotools.coco import COCO
    coco = COCO(write_coco(tmp_path / 'coco', **SETTINGS) / f'annotations/instances_{split}.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.imgs) == count
    for index, image in enumerate(coco.loadImgs(coco.getImgIds())):
        drawn = scene(split, index)
        picture = Image.open(tmp_path / f'coco/images/{split}' / image['file_name'])
        assert np.array_equal(np.array(picture), drawn.image) and picture.size == (image['width'], image['height'])
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        assert len(annotations) == len(drawn.objects)
        for annotation, obj in zip(annotations, drawn.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation), obj.mask)
            rle = coco.annToRLE(annotation)
            assert annotation['area'] == mask_utils.area(rle)
            assert annotation['bbox'] == mask_utils.toBbox(rle).tolist()
            assert annotation['category_id'] == obj.label + 1 and annotation['iscrowd'] == 0


@pytest.mark.parametrize('mask', [
    np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, dtype=bool), ~np.eye(5, dtype=bool)])
def test_run_lengths_are_those_of_pycocotools(mask):
    from pycocotools import mask as mask_utils
    rle = mask_utils.frPyObjects(shapes.encode_rle(mask), *mask.shape)
    assert rle['counts'] == mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))['counts']


def test_perfect_predictions_score_one_hundred(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    coco = COCO(write_coco(tmp_path / 'coco', **SETTINGS) / 'annotations/instances_val.json')
    predictions = [dict(image_id=a['image_id'], category_id=a['category_id'], score=1., segmentation=coco.annToRLE(a))
                   for a in coco.anns.values()]
    evaluation = COCOeval(coco, coco.loadRes(predictions), 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1


def test_mmdet_reads_the_coco_layout(tmp_path):
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    root = write_coco(tmp_path / 'coco', **SETTINGS)
    dataset = CocoDataset(
        data_root=str(root), ann_file='annotations/instances_train.json', data_prefix=dict(img='images/train/'),
        metainfo=dict(classes=CLASSES), filter_cfg=dict(filter_empty_gt=True, min_size=8),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)])
    assert len(dataset) == 6
    for index in range(6):
        sample, drawn = dataset[index], scene('train', index)
        assert sample['gt_bboxes_labels'].tolist() == [obj.label for obj in drawn.objects]
        assert not sample['gt_ignore_flags'].any()
        assert np.array_equal(sample['gt_masks'].masks.astype(bool), [obj.mask for obj in drawn.objects])


def test_mmseg_reads_the_segmentation_layout(tmp_path):
    from mmseg.datasets import BaseSegDataset
    from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    root = write_segmentation(tmp_path / 'seg', **SETTINGS)
    dataset = BaseSegDataset(
        data_root=str(root), data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        img_suffix='.png', metainfo=dict(classes=('background', *CLASSES)),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])
    assert len(dataset) == 6
    for index in range(6):
        assert np.array_equal(dataset[index]['gt_seg_map'], scene('train', index).index_mask())
        assert np.array_equal(dataset[index]['img'][..., ::-1], scene('train', index).image)


def test_mmpretrain_reads_the_classification_layout(tmp_path):
    from mmpretrain.datasets import CustomDataset
    from mmpretrain.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    root = write_classification(tmp_path / 'cls', spec=SPEC, train=2 * len(CLASSES), val=len(CLASSES), quiet=True)
    for split, count in (('train', 2), ('val', 1)):
        dataset = CustomDataset(data_root=str(root), data_prefix=split, pipeline=[dict(type='LoadImageFromFile')])
        assert sorted(dataset.CLASSES) == sorted(CLASSES)
        assert np.bincount([dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]).tolist() == [count] * 8
        assert dataset[0]['img'].shape == (64, 64, 3)


def test_mmpretrain_reads_the_multilabel_layout(tmp_path):
    from mmpretrain.datasets import MultiLabelDataset
    from mmpretrain.utils import register_all_modules
    register_all_modules(init_default_scope=True)
    root = write_multilabel(tmp_path / 'labels', **SETTINGS)
    dataset = MultiLabelDataset(ann_file='annotations/train.json', data_root=str(root), data_prefix='images',
                                pipeline=[dict(type='LoadImageFromFile')])
    assert tuple(dataset.CLASSES) == CLASSES and len(dataset) == 6
    for index in range(6):
        assert set(dataset[index]['gt_label']) == {obj.label for obj in scene('train', index).objects}
        assert np.array_equal(dataset[index]['img'][..., ::-1], scene('train', index).image)


@WRITERS
def test_complete_folder_is_used_again(tmp_path, write, monkeypatch):
    root = write(tmp_path / 'data', **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    monkeypatch.setattr(shapes, 'draw_scene', lambda *args: pytest.fail('drawn again'))
    write(root, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@WRITERS
@pytest.mark.parametrize('damage', ['delete', 'truncate', 'change', 'manifest'])
def test_damaged_folder_is_drawn_anew(tmp_path, write, damage):
    root = write(tmp_path / 'data', **SETTINGS)
    whole = contents(root)
    picture = next(root.rglob('*.png'))
    if damage == 'delete':
        picture.unlink()
    elif damage == 'truncate':
        os.truncate(picture, 10)
    elif damage == 'change':
        picture.write_bytes(bytes(reversed(picture.read_bytes())))
    else:
        os.truncate(root / shapes.MANIFEST, 10)
    assert contents(root) != whole
    write(root, **SETTINGS)
    assert contents(root) == whole
    assert os.listdir(tmp_path) == ['data']


@pytest.mark.parametrize('other', [dict(seed=4), dict(train=7), dict(spec=SceneSpec(size=80))])
def test_other_settings_are_drawn_anew(tmp_path, other):
    root = write_coco(tmp_path / 'data', **SETTINGS)
    before = contents(root)
    write_coco(root, **{**SETTINGS, **other})
    assert contents(root) != before
    assert json.loads((root / shapes.MANIFEST).read_text())['seed'] == {**SETTINGS, **other}['seed']


def test_more_scenes_leave_the_first_ones_as_they_were(tmp_path):
    few, many = write_coco(tmp_path / 'few', **SETTINGS), write_coco(tmp_path / 'many', **{**SETTINGS, 'train': 9})
    name = 'images/train/000005.png'
    assert contents(few)[name] == contents(many)[name]


@pytest.mark.parametrize('exists', [False, True])
@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError('No space left on device')])
def test_interrupted_drawing_leaves_nothing_half_written(tmp_path, monkeypatch, exists, error):
    root = tmp_path / 'data'
    if exists:
        write_coco(root, **{**SETTINGS, 'seed': 1})
    before = contents(root)

    def draw(spec, seed, label):
        if seed[2] == 4:
            raise error
        return draw_scene(spec, seed, label)

    monkeypatch.setattr(shapes, 'draw_scene', draw)
    with pytest.raises((KeyboardInterrupt, UserError)):
        write_coco(root, **SETTINGS)
    assert contents(root) == before
    assert os.listdir(tmp_path) == ['data'] * exists


def test_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(DatasetError, match="holds 'thesis.txt', which is not part of the coco data set"):
        write_coco(tmp_path, **SETTINGS)
    assert contents(tmp_path) == {'thesis.txt': b'years of work'}


def test_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / 'data').write_text('')
    with pytest.raises(DatasetError, match='is a file, expected a folder'):
        write_coco(tmp_path / 'data', **SETTINGS)


def test_unwritable_place_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DatasetError, match='file/data cannot be written'):
        write_coco(tmp_path / 'file' / 'data', **SETTINGS)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_empty_split_is_refused(tmp_path, split):
    with pytest.raises(ConfigError, match=f'the number of {split} scenes must be at least 1, got 0'):
        write_coco(tmp_path / 'data', **{**SETTINGS, split: 0})


@pytest.mark.parametrize('layout, write', [
    ('detection', write_coco), ('segmentation', write_segmentation), ('classification', write_classification),
    ('multilabel', write_multilabel)])
def test_the_tool_draws_each_layout(tmp_path, layout, write):
    settings = [layout, tmp_path / 'tool', '--train', 8, '--val', 2, '--seed', 3]
    assert run_tool('draw_shapes', *settings).status == 0
    drawn = contents(tmp_path / 'tool')
    assert drawn == contents(write(tmp_path / 'function', seed=3, train=8, val=2, quiet=True))
    assert len(drawn) > 10


@pytest.mark.parametrize('seed', [-1, 2 ** 32, 'x'])
def test_a_seed_that_no_generator_takes_is_a_usage_error(tmp_path, seed):
    done = run_tool('draw_shapes', 'classification', tmp_path / 'out', '--seed', seed)
    assert done.status == 2 and not (tmp_path / 'out').exists()
    assert f'argument --seed: expected a whole number from 0 to 4294967295, got {seed}' in done.err.splitlines()[-1]
