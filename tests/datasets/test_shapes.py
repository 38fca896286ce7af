"""The drawn data set: its scenes, and its layouts as the toolboxes and pycocotools read them."""
import json
import os

import numpy as np
import pytest
from running import run_tool

from repvit_mm.datasets import shapes
from repvit_mm.datasets.shapes import CLASSES, LAYOUTS, draw_scene, write_shapes
from repvit_mm.errors import DatasetError

SETTINGS = dict(size=64, seed=3, train=6, val=2, quiet=True)


def scene(split, index):
    return draw_scene((3, ('train', 'val').index(split), index), 64)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


# Scenes

def test_a_seed_gives_the_same_pixels_and_another_one_others():
    scenes = [draw_scene((seed, split, index), 96) for seed in (0, 1) for split in (0, 1) for index in (0, 1)]
    assert len({one.image.tobytes() for one in scenes}) == 8
    again = draw_scene((0, 0, 0), 96)
    assert np.array_equal(again.image, scenes[0].image) and np.array_equal(again.masks, scenes[0].masks)


@pytest.mark.parametrize('settings', [
    dict(size=97), dict(objects=(6, 9), radius=(0.1, 0.3)), dict(radius=(0.45, 0.45))])
def test_objects_are_in_the_image_and_mostly_visible(settings):
    hidden = []
    for seed in range(8):
        drawn = draw_scene(seed, **{'size': 64, **settings})
        assert drawn.image.shape == (settings.get('size', 64),) * 2 + (3,) and drawn.image.dtype == np.uint8
        assert 1 <= len(drawn.labels) == len(drawn.masks) <= settings.get('objects', (2, 5))[1]
        assert np.sum(drawn.masks, axis=0).max() == 1, 'a pixel shows one object'
        for label, mask in zip(drawn.labels, drawn.masks, strict=True):
            assert set(drawn.index_mask()[mask]) == {label + 1}
            inside, outside = drawn.image[mask].mean(0), drawn.image[~mask].mean(0)
            assert abs(inside - outside).max() > 4
        assert not drawn.index_mask()[~np.any(drawn.masks, axis=0)].any()
        hidden += [mask.sum() for mask in drawn.masks]
    assert min(hidden) > 30


# Share of the circumcircle's area, by geometry where there is a formula.
@pytest.mark.parametrize(('name', 'share'), [
    ('circle', 1.), ('square', 2 / np.pi), ('triangle', 3 * np.sqrt(3) / 4 / np.pi), ('ring', 1 - 0.55 ** 2),
    ('cross', (2 * 0.7 * 1.88 - 0.7 ** 2) / np.pi), ('star', 10 * np.sin(np.pi / 5) * 0.45 / 2 / np.pi)])
def test_shape_has_its_area(name, share):
    mask, = draw_scene(0, 160, objects=(1, 1), radius=(0.4, 0.4), label=CLASSES.index(name)).masks
    assert mask.sum() == pytest.approx(share * np.pi * (0.4 * 160) ** 2, rel=0.02)


@pytest.mark.parametrize('name', CLASSES)
def test_shape_fills_the_unit_circle_and_stays_inside(name):
    assert 0.93 < max(np.hypot(x, y) for contour in shapes.SHAPES[name] for x, y in contour) <= 1.005


# Layouts

def read_detection(root):
    from mmdet.datasets import CocoDataset
    return CocoDataset(
        data_root=root, ann_file='annotations/instances_train.json', data_prefix=dict(img='images/train/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)])


def read_segmentation(root):
    from mmseg.datasets import BaseSegDataset
    return BaseSegDataset(
        data_root=root, data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'), img_suffix='.png',
        metainfo=dict(classes=('background', *CLASSES)),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])


@pytest.mark.parametrize(('layout', 'toolbox', 'read', 'labels_of'), [
    ('detection', 'mmdet', read_detection, lambda sample: [
        sample['gt_bboxes_labels'].tolist(), sample['gt_masks'].masks.astype(bool).tolist()]),
    ('segmentation', 'mmseg', read_segmentation, lambda sample: sample['gt_seg_map'].tolist()),
])
def test_the_toolbox_reads_its_layout(tmp_path, layout, toolbox, read, labels_of):
    __import__(f'{toolbox}.utils').utils.register_all_modules(init_default_scope=True)
    dataset = read(str(write_shapes(layout, tmp_path / 'data', **SETTINGS)))
    assert len(dataset) == 6
    for index in range(6):
        drawn, sample = scene('train', index), dataset[index]
        assert np.array_equal(sample['img'][..., ::-1], drawn.image)
        assert labels_of(sample) == {'detection': [drawn.labels, np.array(drawn.masks).tolist()],
                                     'segmentation': drawn.index_mask().tolist()}[layout]


def test_mmpretrain_reads_the_classification_layout(tmp_path):
    from mmpretrain.datasets import CustomDataset
    root = write_shapes('classification', tmp_path / 'cls', size=64, train=16, val=8, quiet=True)
    for split, count in (('train', 2), ('val', 1)):
        dataset = CustomDataset(data_root=str(root), data_prefix=split, pipeline=[dict(type='LoadImageFromFile')])
        assert sorted(dataset.CLASSES) == sorted(CLASSES)
        assert np.bincount([dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]).tolist() == [count] * 8
        assert dataset[0]['img'].shape == (64, 64, 3)


# Folders

@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_folder_is_drawn_once(tmp_path, layout, monkeypatch):
    root = write_shapes(layout, tmp_path / 'data', **SETTINGS)
    before = contents(root)
    monkeypatch.setattr(shapes, 'draw_scene', lambda *args, **kwargs: pytest.fail('drawn again'))
    write_shapes(layout, root, **SETTINGS)
    assert contents(root) == before


@pytest.mark.parametrize('other', [dict(seed=4), dict(train=7), dict(size=80)])
def test_other_settings_are_drawn_again(tmp_path, other):
    root = write_shapes('detection', tmp_path / 'data', **SETTINGS)
    before = contents(root)
    write_shapes('detection', root, **{**SETTINGS, **other})
    assert contents(root) != before and os.listdir(tmp_path) == ['data']
    assert json.loads((root / shapes.MANIFEST).read_text())['seed'] == {**SETTINGS, **other}['seed']


def test_more_scenes_leave_the_first_ones_as_they_were(tmp_path):
    few, many = (write_shapes('detection', tmp_path / str(train), **{**SETTINGS, 'train': train}) for train in (6, 9))
    name = 'images/train/000005.png'
    assert contents(few)[name] == contents(many)[name]


def test_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(DatasetError, match="holds 'thesis.txt', which is not part of the drawn data set"):
        write_shapes('detection', tmp_path, **SETTINGS)
    assert contents(tmp_path) == {'thesis.txt': b'years of work'}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_tool_draws_each_layout(tmp_path, layout):
    result = run_tool('draw_shapes', layout, tmp_path / 'data', '--train', 2, '--val', 1)
    assert (result.status, result.out.splitlines()[-1]) == (0, str(tmp_path / 'data'))
    assert len(list((tmp_path / 'data').rglob('*.png'))) == (6 if layout == 'segmentation' else 3)
    (tmp_path / 'file').touch()
    result = run_tool('draw_shapes', layout, tmp_path / 'file' / 'data', '--train', 1, '--val', 1)
    assert (result.status, result.out) == (1, '') and 'file: ' in result.err and result.err.count('\n') == 1
