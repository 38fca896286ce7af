"""Classes of detectors: those of the config against its heads and against the annotations."""
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes import coco
from repvit_mm.toolboxes.detection import Detection, keep_boxes_precise

pytest.importorskip('mmdet')

NAMES = ['cat', 'dog', 'cow']
Detection().import_toolbox('my_config.py')  # as tools do
TWO_STAGES = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))


def check(model, metainfo=None, kind='CocoDataset'):
    loader = dict(dataset=dict(type=kind, metainfo=metainfo))
    cfg = Config(dict(model=model, test_dataloader=loader), cfg_text=' ', filename='my_config.py')
    Detection().adapt_config(cfg, ['test_dataloader'])


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


def test_classes_in_a_file_are_counted(tmp_path):
    (tmp_path / 'names.txt').write_text('\n'.join(NAMES))
    check(TWO_STAGES, dict(classes=str(tmp_path / 'names.txt')))
    (tmp_path / 'names.txt').write_text('cat')
    with pytest.raises(ConfigError, match='has 1 classes'):
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
    with pytest.raises(DatasetError, match=r'instances.json has 2 of the 3 classes cat, dog, cow; give ') as info:
        Detection().check_dataset(build(['dog', 'cow', 'hen'], wrapper))
    assert '\n' not in str(info.value)


@pytest.mark.parametrize('wrapper', [False, True])
def test_annotations_in_another_order_are_refused(build, wrapper):
    with pytest.raises(DatasetError, match=r'instances.json has the categories in the order dog, cat, cow, and mmdet '
                                           r'uses that order, but metainfo.classes is cat, dog, cow; bring'):
        Detection().check_dataset(build(['dog', 'hen', 'cat', 'cow'], wrapper))


GOOD = dict(image_id=7, category_id=1, bbox=[1, 1, 2, 2], area=4, iscrowd=0)
USELESS = [
    (dict(bbox=[9, 9, 2, 2]), 'have a box outside of their image'),
    (dict(bbox=[-4, 0, 3, 3]), 'have a box outside of their image'),
    (dict(bbox=[float('nan'), 0, 3, 3]), 'have a box with infinite values or NaN'),
    (dict(bbox=[0, 0, float('inf'), 3]), 'have a box with infinite values or NaN'),
    (dict(bbox=[1, 1, 2, 0]), 'have no area'),
    (dict(bbox=[1, 1, 2, 0.5]), 'have no area'),
    (dict(area=0), 'have no area'),
    (dict(iscrowd=1), r'are crowds \(iscrowd\)'),
    (dict(image_id=8), 'are of an image that the file does not list'),
    (dict(category_id=10), 'there are no objects of the 3 classes'),
]


@pytest.fixture
def check_training(tmp_path):
    def check(*annotations, images=({'id': 7},), pipeline=()):
        path = tmp_path / 'instances.json'
        path.write_text(json.dumps(dict(
            images=[dict(file_name='7.jpg', height=4, width=5, **image) for image in images],
            annotations=[dict(GOOD, id=number) | changes for number, changes in enumerate(annotations)],
            categories=[{'id': 3 * number + 1, 'name': name} for number, name in enumerate([*NAMES, 'hen'])])))
        Detection().check_dataset(DATASETS.build(dict(
            type='mmdet.CocoDataset', ann_file=str(path), data_prefix=dict(img='images'), pipeline=list(pipeline),
            metainfo=dict(classes=NAMES))))
    return check


@pytest.fixture
def lines(monkeypatch):
    lines = []
    monkeypatch.setattr(coco, 'print_log', lambda line, *_: lines.append(line))
    return lines


@pytest.mark.parametrize(('useless', 'reason'), USELESS)
def test_a_training_set_without_anything_to_learn_is_refused(check_training, useless, reason):
    with pytest.raises(DatasetError, match=rf'^nothing can be learned from the training set: .*{reason}') as info:
        check_training(useless, useless)
    assert '\n' not in str(info.value)


def test_unusable_objects_are_counted(check_training, lines):
    check_training({}, *(useless for useless, _ in USELESS))
    for number, reason in ((2, 'outside'), (2, 'NaN'), (3, 'no area'), (1, 'crowds'), (1, 'of an image')):
        assert sum(f' {number} of 11 objects' in line and reason in line for line in lines) == 1, lines
    assert len(lines) == 5


def test_a_good_training_set_is_not_mentioned(check_training, lines):
    check_training({}, {})
    assert not lines


def test_masks_that_mmdet_ignores_are_counted(check_training, lines):
    load = dict(type='mmdet.LoadAnnotations', with_mask=True)
    masks = [dict(segmentation=dict(size=[4, 5], counts=[6, 2, 12])), dict(segmentation=[[1, 1, 3, 1, 3, 3]])]
    check_training(*masks, pipeline=[load])
    assert not lines
    check_training(*masks, pipeline=[dict(load, poly2mask=False)])
    assert len(lines) == 1 and ' 1 of 2 objects have no polygons' in lines[0]
    with pytest.raises(DatasetError, match='nothing can be learned .* poly2mask=False'):
        check_training(masks[0], pipeline=[dict(load, poly2mask=False)])


def test_data_sets_of_other_toolboxes_are_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, 'repvit_mm.toolboxes.coco', None)  # mmdet may not be installed
    Detection().check_dataset(SimpleNamespace(metainfo={'classes': ['a']}, test_mode=False))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
def test_heads_give_single_precision_to_anchors_and_boxes(dtype):
    class Head(torch.nn.Linear):
        def predict_by_feat(self):
            pass

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), Head(2, 2)).to(dtype)
    keep_boxes_precise(model)
    assert model[0](torch.ones(1, 2, dtype=dtype)).dtype == dtype
    assert model(torch.ones(1, 2, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
def test_regions_are_not_rounded_to_the_precision_of_the_maps(dtype):
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
    extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=2, sampling_ratio=1), 1, [8])
    columns = torch.arange(160, dtype=dtype).expand(1, 1, 8, 160)
    regions = torch.tensor([[0., 1001.5, 8, 1033.5, 40]])
    keep_boxes_precise(extractor)
    # The centres of the bins, in pixels of the map; a pixel's own centre is at a half.
    assert extractor((columns,), regions)[0, 0, 0].tolist() == [(1001.5 + 8) / 8 - 0.5, (1001.5 + 24) / 8 - 0.5]
