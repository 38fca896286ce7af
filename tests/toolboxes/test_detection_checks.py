"""Classes of detectors: those of the config against its heads and against the annotations."""
import json

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes.detection import Detection, _category_names

pytest.importorskip('mmdet')

NAMES = ['cat', 'dog', 'cow']
TWO_STAGES = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))


def check(model, metainfo=None, kind='CocoDataset'):
    loader = dict(dataset=dict(type=kind, metainfo=metainfo))
    cfg = Config(dict(model=model, test_dataloader=loader), cfg_text=' ', filename='my_config.py')
    Detection().check_config(cfg, ['test_dataloader'])


@pytest.mark.parametrize(('model', 'metainfo'), [
    (TWO_STAGES, dict(classes=NAMES)),
    (dict(bbox_head=dict(num_classes=80)), None),  # COCO has as many
    (dict(roi_head=dict(bbox_head=[dict(num_classes=3)] * 3)), dict(classes=NAMES)),
    (dict(rpn_head=dict(num_classes=1)), dict(classes=NAMES)),
    (dict(language_model={}, bbox_head=dict(num_classes=256)), dict(classes=NAMES)),
    (dict(semantic_head={}, **TWO_STAGES), dict(classes=[*NAMES, 'sky', 'sea'])),
], ids=['two stages', 'known', 'cascade', 'proposals', 'words', 'panoptic'])
def test_heads_for_the_classes_of_the_data_set_pass(model, metainfo):
    check(model, metainfo)


def test_a_data_set_without_classes_is_left_alone():
    check(TWO_STAGES, kind='BaseDetDataset')


def test_classes_in_a_file_are_left_to_mmengine(tmp_path):
    (tmp_path / 'names.txt').write_text('cat\n')
    check(TWO_STAGES, dict(classes=str(tmp_path / 'names.txt')))


@pytest.mark.parametrize(('model', 'metainfo', 'expected'), [
    (TWO_STAGES, None, 'the data set has 80 classes, but model.roi_head.bbox_head.num_classes=3'),
    (TWO_STAGES, dict(classes=NAMES[:2]), 'has 2 classes, but model.roi_head.bbox_head.num_classes=3'),
    (dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=4)), dict(classes=NAMES), 'model.mask_head.num'),
    (TWO_STAGES, dict(classes='cat'), r"classes='cat' is one string, .* metainfo=dict\(classes=\['cat'\]\)"),
])
def test_heads_for_other_classes_name_the_config(model, metainfo, expected):
    with pytest.raises(ConfigError, match=f'^my_config.py, test_dataloader: .*{expected}') as info:
        check(model, metainfo)
    assert '\n' not in str(info.value)


@pytest.fixture
def build(tmp_path):
    def build(categories, wrapper=None):
        path = tmp_path / 'instances.json'
        path.write_text(json.dumps({
            'images': [{'id': 7, 'file_name': '7.jpg', 'height': 4, 'width': 5}], 'annotations': [],
            'categories': [{'id': 3 * number + 1, 'name': name} for number, name in enumerate(categories)]}))
        dataset = dict(type='mmdet.CocoDataset', ann_file=str(path), data_prefix=dict(img='images'),
                       metainfo=dict(classes=NAMES), test_mode=True, pipeline=[])
        return DATASETS.build(dict(type='mmdet.ConcatDataset', datasets=[dataset]) if wrapper else dataset)
    return build


@pytest.mark.parametrize('wrapper', [False, True])
def test_annotations_that_know_more_than_the_classes_pass(build, wrapper):
    Detection().check_dataset(build([*NAMES, 'hen'], wrapper))


@pytest.mark.parametrize('wrapper', [False, True])
def test_annotations_of_other_categories_are_refused(build, wrapper):
    with pytest.raises(DatasetError, match=r'instances.json knows 2 of the 3 classes cat, dog, cow; give ') as info:
        Detection().check_dataset(build(['dog', 'cow', 'hen'], wrapper))
    assert '\n' not in str(info.value)


@pytest.mark.parametrize('wrapper', [False, True])
def test_annotations_in_another_order_are_refused(build, wrapper):
    with pytest.raises(DatasetError, match=r'instances.json has the categories in the order dog, cat, cow, and mmdet '
                                           r'uses that order, but metainfo.classes is cat, dog, cow; bring'):
        Detection().check_dataset(build(['dog', 'hen', 'cat', 'cow'], wrapper))


@pytest.mark.parametrize('layout', [{}, {'indent': 2}, {'separators': (',', ':')}])
def test_the_categories_are_found_anywhere_in_the_file(tmp_path, layout):
    content = {'categories': [{'id': 1, 'name': 'cat [a "categories"]'}], 'images': [{'id': 7}], 'annotations': []}
    (tmp_path / 'x.json').write_text(json.dumps(content, **layout))
    assert _category_names(str(tmp_path / 'x.json')) == ['cat [a "categories"]']


def test_data_sets_of_other_kinds_are_left_alone():
    Detection().check_dataset([1, 2])
