"""Moving data sets, and finding out that they are not there; no toolbox needed."""
import pytest
from mmengine.config import Config

from repvit_mm.engine.data import check_data, check_samples, expected_paths, move_data_root
from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes.datasets import datasets_of

COCO = dict(type='CocoDataset', data_root='data/coco/', ann_file='annotations/a.json', data_prefix=dict(img='train/'))


def config(train, **others):
    loader = dict(batch_size=2, dataset=train)
    return Config(dict(train_dataloader=loader, val_dataloader=dict(dataset=COCO), **others))


@pytest.mark.parametrize('wrap', [
    lambda one: one,
    lambda one: dict(type='RepeatDataset', times=3, dataset=one),
    lambda one: dict(type='ConcatDataset', datasets=[one, dict(one, data_root='data/coco')]),
    lambda one: dict(type='MultiImageMixDataset', dataset=dict(type='ClassBalancedDataset', dataset=one)),
], ids=['plain', 'repeated', 'concatenated', 'nested'])
def test_data_root_moves_every_data_set(wrap):
    cfg = config(wrap(COCO))
    move_data_root(cfg, '/elsewhere')
    roots = {dataset['data_root'].rstrip('/') for _, dataset in datasets_of(cfg)}
    assert roots == {'/elsewhere'}
    assert 'data/coco' not in cfg.pretty_text
    assert cfg.train_dataloader.batch_size == 2


def test_data_root_moves_evaluators_and_other_paths():
    proposals = dict(COCO, proposal_file='data/coco/proposals.pkl', ann_file='/absolute/a.json')
    cfg = config(proposals, data_root='data/coco/', val_evaluator=dict(type='CocoMetric', ann_file='data/coco/a.json'),
                 test_evaluator=[dict(type='CocoMetric', ann_file='data/coco/b.json', metric=['bbox']),
                                 dict(type='Other', ann_file='data/coco_other/b.json')])
    move_data_root(cfg, '/new/')
    assert cfg.val_evaluator.ann_file == '/new/a.json'
    assert cfg.test_evaluator[0] == dict(type='CocoMetric', ann_file='/new/b.json', metric=['bbox'])
    assert cfg.test_evaluator[1].ann_file == 'data/coco_other/b.json'  # another directory that begins alike
    assert cfg.train_dataloader.dataset.proposal_file == '/new/proposals.pkl'
    assert cfg.train_dataloader.dataset.ann_file == '/absolute/a.json'
    assert cfg.data_root.rstrip('/') == '/new'


def test_data_root_of_several_data_sets_is_not_guessed():
    with pytest.raises(ConfigError, match='data/coco, data/lvis'):
        move_data_root(config(dict(COCO, data_root='data/lvis/')), '/new')


@pytest.mark.parametrize('dataset', [dict(type='Custom', ann_file='x/a.json'), dict(COCO, data_root='')])
def test_data_root_needs_one_to_move(dataset):
    with pytest.raises(ConfigError, match='of train_dataloader has no data_root'):
        move_data_root(config(dataset), '/new')


def make_coco(root):
    (root / 'annotations').mkdir(parents=True)
    (root / 'annotations' / 'a.json').write_text('{}')
    (root / 'train').mkdir()
    return root


def test_data_set_that_is_there(tmp_path):
    cfg = config(COCO, val_evaluator=dict(ann_file='data/coco/annotations/a.json'))
    move_data_root(cfg, str(make_coco(tmp_path / 'coco')))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))


@pytest.mark.parametrize('missing', ['annotations/a.json', 'train'])
def test_data_set_that_is_not_there(tmp_path, missing):
    cfg = config(COCO)
    move_data_root(cfg, str(make_coco(tmp_path / 'coco')))
    (tmp_path / 'coco' / missing).rename(tmp_path / 'away')
    with pytest.raises(DatasetError) as error:
        check_data(cfg, ('train_dataloader',))
    message = str(error.value)
    assert f'{tmp_path}/coco/annotations/a.json' in message  # what was expected
    assert f'coco/{missing}' in message.partition(', but ')[2]  # and what is missing of it
    assert '--data-root' in message and '\n' not in message


def test_only_the_loaders_in_use_are_checked():
    cfg = config(COCO)
    check_data(cfg, ('test_dataloader',))
    with pytest.raises(DatasetError, match='val_dataloader expects'):
        check_data(cfg, ('val_dataloader',))


def test_annotations_of_the_evaluator(tmp_path):
    cfg = Config(dict(test_evaluator=[dict(ann_file=str(tmp_path / 'no.json'))]))
    check_data(cfg, ('val_dataloader',))
    with pytest.raises(DatasetError, match=r'test_evaluator expects its annotations in .*no\.json'):
        check_data(cfg, ('test_dataloader',))


@pytest.mark.parametrize('remote', [dict(data_root='s3://bucket/coco'), dict(backend_args=dict(backend='petrel'))])
def test_remote_data_sets_are_left_to_their_backend(remote):
    check_data(config({**COCO, **remote}), ('train_dataloader',))


@pytest.mark.parametrize(('dataset', 'paths'), [
    (COCO, ['data/coco/train/', 'data/coco/annotations/a.json']),
    (dict(data_root='r', data_prefix='train', ann_file=''), ['r/train']),
    (dict(data_root='r', data_prefix=dict(img_path='i', seg_map_path=None)), ['r/i']),
    (dict(data_root='r', split='train'), ['r']),
    (dict(data_root='r', ann_file='/a.txt'), ['/a.txt']),
    ({}, []),
])
def test_expected_paths(dataset, paths):
    assert expected_paths(dataset) == paths


class Samples:
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


def test_samples_that_are_missing(tmp_path):
    paths = [str(tmp_path / f'{i}.jpg') for i in range(5)]
    for path in paths[:3]:
        open(path, 'w').close()
    check_samples(Samples(paths[:3]), [])
    with pytest.raises(DatasetError, match=r'2 of 5 images .* are missing, first .*3\.jpg; .* of a\.json'):
        check_samples(Samples(paths), ['a.json'])
    with pytest.raises(DatasetError, match=r'a\.json has no samples left'):
        check_samples(Samples([]), ['a.json'])
    check_samples([1, 2], [])  # no data set of mmengine
