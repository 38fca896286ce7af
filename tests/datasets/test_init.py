"""From a folder of data to a config that trains: what is recognised, what is written, and what is refused."""
import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from cv2 import connectedComponents
from mmengine.registry import DATASETS
from other_formats import to_voc, to_yolo
from PIL import Image
from pycocotools.coco import COCO
from running import run_tool

import repvit_mm.datasets.writing as writing
from repvit_mm.datasets.recognising import recognise
from repvit_mm.datasets.shapes import CLASSES, write_classification, write_coco, write_segmentation
from repvit_mm.datasets.sheet import draw_sheet
from repvit_mm.engine.configs import load_config
from repvit_mm.errors import DatasetError

SMALL = 64
needs_globox = pytest.mark.skipif(not find_spec('globox'), reason='needs globox')
NO_WORKERS = [f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')]


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """The drawn scenes in every format."""
    root = tmp_path_factory.mktemp('drawn')
    coco = write_coco(root / 'coco', SMALL, train=12, val=6, quiet=True)
    write_segmentation(root / 'labels', SMALL, train=12, val=6, quiet=True)
    write_classification(root / 'folders', SMALL, train=24, val=8, quiet=True)
    to_voc(coco, root / 'voc')
    to_yolo(coco, root / 'yolo')
    to_yolo(coco, root / 'polygons', polygons=True)
    return root


@pytest.fixture
def data(drawn, tmp_path, monkeypatch):
    """Copies a data set, to be spoiled, into the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: shutil.copytree(drawn / name, tmp_path / name)


def converted(found, split, tmp_path):
    path = tmp_path / f'{split}.json'
    path.write_text(found.files[f'{split}.json'])
    return COCO(path)


@pytest.mark.parametrize(('name', 'kind', 'task', 'masks'), [
    ('coco', 'COCO JSON', 'detection', True), ('voc', 'Pascal VOC', 'detection', False),
    pytest.param('yolo', 'YOLO labels', 'detection', False, marks=needs_globox),
    pytest.param('polygons', 'YOLO labels', 'detection', True, marks=needs_globox),
    ('labels', 'label images', 'segmentation', False), ('folders', 'class folders', 'classification', False)])
def test_a_format_is_recognised_and_its_config_reads_all_of_it(drawn, tmp_path, monkeypatch, name, kind, task, masks):
    monkeypatch.chdir(tmp_path)
    done = run_tool('init', drawn / name)
    assert done.status == 0, done.err
    found = recognise(drawn / name)
    assert (found.kind, found.task, found.masks) == (kind, task, masks)
    folder = tmp_path / f'{name}_repvit'
    assert sorted(path.name for path in folder.iterdir()) == sorted([f'{name}.py', 'pictures.png', *found.files])
    cfg = load_config(folder / f'{name}.py')
    for split, part in found.parts.items():
        dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, _scope_=cfg.default_scope))
        assert len(dataset) == len(part.pictures)
        assert list(dataset.metainfo['classes']) == list(found.classes)
        if task == 'detection':
            assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == sum(
                part.counts.values())
    assert f'repvit-mm train {name}_repvit/{name}.py' in done.out
    assert f'--show-dir work_dirs/{name}/pictures' in done.out  # not among the user's


@pytest.mark.parametrize(('name', 'tolerance'), [('voc', 0), pytest.param('yolo', 1e-6, marks=needs_globox),
                                                 pytest.param('polygons', 0.26, marks=needs_globox)])
def test_converted_annotations_are_those_of_the_original(drawn, tmp_path, name, tolerance):
    found = recognise(drawn / name)
    for split in ('train', 'val'):
        original, new = COCO(drawn / f'coco/annotations/instances_{split}.json'), converted(found, split, tmp_path)
        assert len(new.imgs) == len(original.imgs)
        for old, now in zip(original.anns.values(), new.anns.values(), strict=True):  # in the same order
            assert new.cats[now['category_id']]['name'] == original.cats[old['category_id']]['name']
            mask = original.annToMask(old)
            if name != 'polygons':
                np.testing.assert_allclose(now['bbox'], old['bbox'], atol=tolerance)
            elif connectedComponents(mask)[0] == 2:  # one outline describes it, but for the hole of a ring
                np.testing.assert_allclose(now['bbox'], old['bbox'], atol=tolerance)
                assert (new.annToMask(now) & mask).sum() >= 0.9 * mask.sum()


def test_one_file_is_split_in_the_same_way_each_time(data):
    root = data('coco')
    (root / 'annotations/instances_val.json').unlink()
    first, second = recognise(root), recognise(root)
    assert first.files == second.files and len(first.parts['val'].pictures) == 2
    names = [{image['file_name'] for image in json.loads(first.files[f'{split}.json'])['images']}
             for split in ('train', 'val')]
    assert len(names[0]) == 10 and not names[0] & names[1]
    assert any('there is no split' in note for note in first.notes)


def test_voc_without_lists_and_label_images_without_folders_are_split(drawn, tmp_path):
    voc = recognise(to_voc(drawn / 'coco', tmp_path / 'voc', lists=False))
    assert [len(part.pictures) for part in voc.parts.values()] == [14, 4]
    for kind, name in (('img_dir', 'images'), ('ann_dir', 'masks')):
        shutil.copytree(drawn / 'labels' / kind / 'train', tmp_path / 'labels' / name)
    labels = recognise(tmp_path / 'labels')
    assert [len(labels.files[f'{split}.txt'].splitlines()) for split in ('train', 'val')] == [10, 2]


def save_pictures(*folders):
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(6):
            Image.new('L', (32, 32), i).save(folder / f'{i:04}.png')


@pytest.mark.parametrize('split', ['', 'train', 'val'])
def test_classes_called_like_labels_are_asked_about(tmp_path, split):
    save_pictures(tmp_path / split / 'mask', tmp_path / split / 'glasses')
    with pytest.raises(DatasetError, match='holds label images and class folders; choose with --format {labels,fol'):
        recognise(tmp_path)
    assert recognise(tmp_path, 'labels').kind == 'label images'
    if not split:
        assert recognise(tmp_path, 'folders').classes == ['glasses', 'mask']


@pytest.mark.parametrize('folders', [('images', 'mask'), ('my_photos', 'gt'), ('RGB', 'label'), ('a/x', 'b/masks')])
def test_what_can_only_be_label_images_needs_no_choice(tmp_path, folders):
    save_pictures(*(tmp_path / folder for folder in folders))
    assert recognise(tmp_path).kind == 'label images'


def test_a_folder_may_have_an_apostrophe(tmp_path, monkeypatch):
    (folder := tmp_path / "o'brien").mkdir()
    monkeypatch.chdir(folder)
    save_pictures(folder / 'x/images', folder / 'x/masks')
    assert run_tool('init', 'x').status == 0
    assert load_config('x_repvit/x.py').train_dataloader.dataset.ann_file == f'{folder}/x_repvit/train.txt'


def test_masks_of_0_and_255_become_two_classes(data):
    root = data('labels')
    for path in root.glob('ann_dir/*/*.png'):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    assert run_tool('init', root).status == 0
    copies = sorted(root.parent.glob('labels_repvit/labels/train/*.png'))
    assert len(copies) == 12
    for copy in copies:
        label = np.asarray(Image.open(root / 'ann_dir/train' / copy.name))
        np.testing.assert_array_equal(Image.open(copy), label // 255)
    cfg = load_config(root.parent / 'labels_repvit/labels.py')
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_='mmseg'))
    assert len(dataset) == 12 and dataset.get_data_info(0)['seg_map_path'] == str(copies[0])


def test_ignored_pixels_of_two_classes_are_no_class(tmp_path):
    for i in range(4):
        for kind, value in (('images', 128), ('masks', 1)):
            label = np.full((32, 64), value, np.uint8)
            label[:, 40:] = 255
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(label).save(tmp_path / kind / f'{i}.png')
    found = recognise(tmp_path)
    assert (len(found.classes), found.files.keys()) == (2, {'train.txt', 'val.txt'})
    draw_sheet(found, tmp_path / 'sheet.png')
    red, _, blue = np.moveaxis(np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB')).astype(int), -1, 0)
    assert (blue > red + 40).sum() > 20_000 > 2000 > (red > blue + 40).sum()  # class 1 is blue; class 0 in the legend


def test_what_looks_wrong_is_said(data):
    root = data('coco')
    path = root / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'] = [900, 900, 5, 5]
    content['images'][1]['width'] += 1
    for annotation in content['annotations']:
        if annotation['image_id'] == 2:
            del annotation['segmentation']
    path.write_text(json.dumps(content))
    Image.new('RGB', (9, 9)).save(root / 'images/train/lone.jpg')
    notes = '\n'.join(recognise(root).notes)
    for part in ('objects have a box outside', 'so that only boxes are learned', 'has another size for 1 (',
                 'have fewer than 10 objects', 'lone.jpg) of 19 pictures have no annotations'):
        assert part in notes, part


def test_unused_categories_are_left_out(data):
    root = data('coco')
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        content['categories'].insert(0, dict(id=0, name='shapes'))
        path.write_text(json.dumps(content))
    assert recognise(root).classes == list(CLASSES)


def test_broken_pictures_of_classes_are_left_out(data):
    root = data('folders')
    write_text(root, 'train/ring/000006.png', 'no')
    assert run_tool('init', root).status == 0
    assert load_config(root.parent / 'folders_repvit/folders.py').train_dataloader.dataset.corrupt == 'skip'


def write_text(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


BAD = [
    ('coco', lambda root: write_text(root, 'annotations/instances_val.json', '{"images": [}'), ['--val', 'annotations/'
     'instances_val.json'], 'is not valid JSON'),
    ('coco', lambda root: write_text(root, 'annotations/instances_val.json', '[1]'), ['--val', 'annotations/'
     'instances_val.json'], "has no objects in COCO's format"),
    ('coco', lambda root: shutil.copy(root / 'annotations/instances_val.json', root / 'annotations/train_2.json'), [],
     '--train FILE --val FILE'),
    ('coco', lambda root: shutil.rmtree(root / 'images/val'), [], 'are those for validation missing?'),
    ('coco', lambda root: (root / 'images/val/000001.png').unlink(), [], '000001.png) of 6 pictures'),
    ('coco', lambda root: shutil.rmtree(root / 'images'), [], 'none of the 12 pictures'),
    ('coco', lambda root: write_text(root, 'Annotations/1.xml', '<annotation/>'), [], '--format {coco,voc}'),
    ('coco', lambda root: None, ['--train', 'no.json'], 'there is no annotation file no.json'),
    ('coco', lambda root: None, ['--train', 'no.json', '--format', 'voc'], 'do not go with --format voc'),
    ('coco', lambda root: None, ['--format', 'yolo'], 'has no YOLO labels'),
    ('coco', lambda root: None, ['--out', 'coco/shapes.json'], 'is a file'),
    ('coco', lambda root: None, ['--out', 'coco'], 'which is not from here'),
    ('coco', lambda root: None, ['--out', 'coco/shapes.json/x'], 'cannot be created'),
    ('voc', lambda root: write_text(root, 'Annotations/train_000000.xml', '<annotation><object>'), [],
     'train_000000.xml cannot be read'),
    ('voc', lambda root: write_text(root, 'Annotations/train_000000.xml', '<annotation><size/></annotation>'), [],
     'expected a size'),
    ('voc', lambda root: shutil.rmtree(root / 'JPEGImages'), [], 'has a picture of its name'),
    ('voc', lambda root: write_text(root, 'ImageSets/Main/val.txt', 'other\n'), [], 'lists other'),
    pytest.param('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '8 .5 .5 .1 .1\n'), [],
                 '000001.txt, line 1: the class 8', marks=needs_globox),
    pytest.param('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '\n1 .5 .5 .1\n'), [],
                 '000001.txt, line 2: expected a class', marks=needs_globox),
    pytest.param('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '1 .5 nan .1 .1\n'), [],
                 '000001.txt, line 1: expected a class', marks=needs_globox),
    pytest.param('yolo', lambda root: (root / 'data.yaml').unlink(), [], 'names of the classes', marks=needs_globox),
    pytest.param('yolo', lambda root: write_text(root, 'data.yaml', 'names: ['), [], 'not valid YAML',
                 marks=needs_globox),
    ('labels', lambda root: (root / 'img_dir/train/000003.png').unlink(), [], 'have no picture in'),
    ('labels', lambda root: (root / 'ann_dir/train/000003.png').unlink(), [], 'have no label image'),
    ('labels', lambda root: Image.new('RGB', (64, 64)).save(root / 'ann_dir/train/000003.png'), [], 'has 3 channels'),
    ('labels', lambda root: Image.new('L', (60, 64)).save(root / 'ann_dir/train/000003.png'), [], 'is 64 x 64 pixels'),
    ('labels', lambda root: write_text(root, 'ann_dir/train/000003.png', 'no'), [], 'cannot be read as a label image'),
    ('folders', lambda root: shutil.rmtree(root / 'val'), [], 'no folder for val'),
    ('coco', lambda root: write_text(root, 'images/val/000001.png', 'no'), [], '000001.png) of 6 pictures cannot be'),
]


@pytest.mark.parametrize(('name', 'spoil', 'options', 'message'), BAD)
def test_bad_data_is_one_line_and_nothing_is_written(data, name, spoil, options, message):
    root = data(name)
    spoil(root)
    before = sorted(root.parent.rglob('*'))
    done = run_tool('init', root.name, *options)
    assert done.status == 1 and done.err.startswith('error: ') and done.err.count('\n') == 1, done.err
    assert message in done.err
    assert sorted(root.parent.rglob('*')) == before


@pytest.mark.parametrize(('files', 'message'), [
    ({}, 'is empty'), ({'a.txt': 'hello'}, 'has no annotations or class folders'),
    ({'a.json': '{"a": 1}'}, 'has no annotations or class folders'), ({'a.json': '{'}, 'is not valid JSON'),
    (None, 'there is no folder')])
def test_folder_without_data(tmp_path, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    if files is not None:
        (tmp_path / 'x').mkdir()
        for name, text in files.items():
            (tmp_path / 'x' / name).write_text(text)
    done = run_tool('init', 'x')
    assert done.status == 1 and message in done.err


def test_yolo_without_globox_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'globox', None)
    done = run_tool('init', data('yolo'))
    assert done.status == 1 and 'pip install globox' in done.err


def test_nothing_is_overwritten_without_a_word(data):
    root = data('folders')
    assert run_tool('init', root).status == 0
    (config,) = root.parent.glob('folders_repvit/*.py')
    config.write_text('mine')
    done = run_tool('init', root)
    assert done.status == 1 and '--overwrite replaces it' in done.err and config.read_text() == 'mine'
    assert run_tool('init', root, '--overwrite').status == 0 and config.read_text() != 'mine'


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_interrupted_or_without_space_it_leaves_nothing(data, monkeypatch, error):
    root = data('voc')
    before = sorted(root.parent.rglob('*'))

    def stop(*_):
        raise error
    monkeypatch.setattr(writing, 'draw_sheet', stop)
    done = run_tool('init', root)
    assert done.status == (130 if error is KeyboardInterrupt else 1)
    assert sorted(root.parent.rglob('*')) == before


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'length', 'checkpoint'), [('voc', 'train_cfg.max_epochs=1', 'epoch_1.pth'),
                                                            ('labels', 'train_cfg.max_iters=1', 'iter_1.pth')])
def test_the_config_trains_and_tests(drawn, tmp_path, monkeypatch, name, length, checkpoint):
    monkeypatch.chdir(tmp_path)
    assert run_tool('init', drawn / name).status == 0
    config = f'{name}_repvit/{name}.py'
    options = ['--cfg-options', *NO_WORKERS, length, 'default_hooks.checkpoint.interval=1']
    options += ['train_dataloader.dataset.indices=4'] * (name == 'voc')
    for done in (run_tool('train', config, '--no-pretrained', *options),
                 run_tool('test', config, f'work_dirs/{name}/{checkpoint}', '--show-dir', 'shown', *options)):
        assert done.status == 0, done.err
    first, *_ = sorted((tmp_path / 'work_dirs' / name).glob('*/*.log'))
    assert ('Scaling the original LR by' in first.read_text()) == (name == 'labels')
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 6
