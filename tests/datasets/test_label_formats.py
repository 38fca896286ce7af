"""Recognised formats of a folder of data, notes about it, and errors."""
import codecs
import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from cv2 import connectedComponents
from other_formats import to_voc
from PIL import Image
from pycocotools.coco import COCO
from running import run_tool

from repvit_mm.datasets.formats import recognise
from repvit_mm.datasets.shapes import CLASSES
from repvit_mm.datasets.tree import hold_out
from repvit_mm.errors import DatasetError


def converted(dataset, split, tmp_path):
    path = tmp_path / f'{split}.json'
    path.write_text(dataset.files[f'{split}.json'])
    return COCO(path)


@pytest.mark.parametrize(('name', 'tolerance'), [
    ('voc', 0), ('csv', 0), ('cvat', 0), ('yolo', 1e-6), ('polygons', 0.26)])
def test_converted_annotations_are_those_of_the_original(drawn, tmp_path, name, tolerance):
    dataset = recognise(drawn / name)
    for split in ('train', 'val'):
        original, new = COCO(drawn / f'coco/annotations/instances_{split}.json'), converted(dataset, split, tmp_path)
        assert len(new.imgs) == len(original.imgs)
        for old, now in zip(original.anns.values(), new.anns.values(), strict=True):  # in the same order
            assert new.cats[now['category_id']]['name'] == original.cats[old['category_id']]['name']
            mask = original.annToMask(old)
            if name != 'polygons':
                np.testing.assert_allclose(now['bbox'], old['bbox'], atol=tolerance)
            elif connectedComponents(mask)[0] == 2:  # one outline describes it, but for the hole of a ring
                np.testing.assert_allclose(now['bbox'], old['bbox'], atol=tolerance)
                assert (new.annToMask(now) & mask).sum() >= 0.9 * mask.sum()


@pytest.mark.parametrize('name', ['labelme', 'label_studio'])
def test_every_object_of_a_labelling_tool_is_read(drawn, name):
    def boxes(dataset):
        return sorted((dataset.classes[item.label], *np.round(item.box, 0)) for split in dataset.splits.values()
                      for sample in split.samples for item in sample.objects)
    assert boxes(recognise(drawn / name)) == boxes(recognise(drawn / 'coco'))


def test_one_file_is_split_in_the_same_way_each_time(data):
    root = data('coco')
    (root / 'annotations/instances_val.json').unlink()
    first, second = recognise(root), recognise(root)
    assert first.files == second.files and len(first.splits['val'].samples) == 2
    names = [{image['file_name'] for image in json.loads(first.files[f'{split}.json'])['images']}
             for split in ('train', 'val')]
    assert len(names[0]) == 10 and not names[0] & names[1]
    assert any('there is no split' in note for note in first.notes)


def test_without_a_split_a_fifth_is_held_out(drawn, tmp_path):
    voc = recognise(to_voc(drawn / 'coco', tmp_path / 'voc', lists=False))
    assert [len(split.samples) for split in voc.splits.values()] == [14, 4]
    for kind, name in (('img_dir', 'images'), ('ann_dir', 'masks')):
        shutil.copytree(drawn / 'labels' / kind / 'train', tmp_path / 'labels' / name)
    labels = recognise(tmp_path / 'labels')
    assert [len(labels.files[f'{split}.txt'].splitlines()) for split in ('train', 'val')] == [10, 2]
    shutil.copytree(drawn / 'folders/train', tmp_path / 'folders/train')
    folders = recognise(tmp_path / 'folders')
    assert [len(split.samples) for split in folders.splits.values()] == [16, 8]


def test_several_folders_of_voc_are_one_data_set(drawn, tmp_path):
    for name in ('VOC2007', 'VOC2012'):
        for path in to_voc(drawn / 'coco', tmp_path / name).rglob('*'):
            if path.is_file():
                text = path.read_text() if path.suffix == '.txt' else None
                path.rename(path.with_name(f'{name}_{path.name}' if text is None else path.name))
                if text:
                    path.write_text(''.join(f'{name}_{line}\n' for line in text.split()))
    assert [len(split.samples) for split in recognise(tmp_path).splits.values()] == [24, 12]


def test_rare_classes_stay_in_training_and_frequent_ones_are_split_alike():
    labels = [{'often'}] * 40 + [{'often', 'rare'}] * 2 + [{'some'}] * 10 + [set()] * 8
    held = hold_out(labels)
    counts = Counter(label for i in held for label in labels[i])
    assert len(held) == 12 and counts['rare'] == 0 and counts['some'] == 2 and 6 <= counts['often'] <= 8
    assert held == hold_out(labels)
    assert len(hold_out([{i} for i in range(5)])) == 1


def spoil_objects(content):
    content['annotations'][0]['bbox'] = [900, 900, 5, 5]
    content['annotations'][1]['iscrowd'] = 1
    for annotation in content['annotations']:
        if annotation['image_id'] == 2:
            del annotation['segmentation']


def test_suspicious_objects_are_reported(edit):
    root = edit(spoil_objects)
    Image.new('RGB', (9, 9)).save(root / 'images/train/lone.jpg')
    (root / 'film.mp4').touch()
    shutil.copy(root / 'images/train/000000.png', root / 'images/val/000000.png')
    notes = '\n'.join(recognise(root).notes)
    for part in (
            'objects have a box outside', 'so only boxes are learned', 'have fewer than 10 objects', '1 .mp4',
            'lone.jpg) of 19 images are not used', '--crowds-as-objects learns them',
            'validation has exact copies of 1 image for training'):
        assert part in notes, part


def test_crowds_can_be_learned_as_objects(edit):
    root = edit(lambda content: [annotation.update(iscrowd=1) for annotation in content['annotations']])
    with pytest.raises(DatasetError, match='no objects to learn from.*--crowds-as-objects learns them'):
        recognise(root)
    dataset = recognise(root, crowds_as_objects=True)
    annotations = json.loads(dataset.files['train.json'])['annotations']
    assert dataset.splits['train'].counts.total() == len(annotations) > 20
    assert not any(annotation['iscrowd'] for annotation in annotations)


def test_difficult_objects_are_counted_as_crowds(data):
    root = data('voc')
    for path in root.glob('Annotations/*.xml'):
        path.write_text(path.read_text().replace('</object>', '<difficult>1</difficult></object>', 1))
    assert 'objects are crowds (iscrowd, or difficult) and are not learned' in '\n'.join(recognise(root).notes)


def without_masks_and_too_small(content):
    for image in content['images']:
        image['width'] = 63
    for annotation in content['annotations']:
        annotation.pop('segmentation')
        annotation['bbox'] = [1, 1, 9, 9]


def as_windows_writes(content):
    for image in content['images']:
        image['file_name'] = f'images\\train\\{image["file_name"]}'


@pytest.mark.parametrize(('change', 'note'), [
    (without_masks_and_too_small, 'another size'), (as_windows_writes, 'by the last part of their name')])
def test_unambiguous_mistakes_are_repaired_in_a_copy(edit, change, note):
    root = edit(change)
    (root / 'annotations/instances_val.json').unlink()
    shutil.rmtree(root / 'images/val')
    dataset = recognise(root)
    images = [image for split in ('train', 'val') for image in json.loads(dataset.files[f'{split}.json'])['images']]
    assert len(images) == 12 and {image['width'] for image in images} == {64} and note in '\n'.join(dataset.notes)
    assert all((dataset.root / dataset.splits['train'].settings['data_prefix']['img'] / image['file_name']).is_file()
               for image in images)


def test_background_and_small_images_teach(edit):
    def remove(content):
        content['annotations'] = [item for item in content['annotations'] if item['image_id'] != 3]
    dataset = recognise(edit(remove))
    assert dataset.splits['train'].settings['filter_cfg'] == dict(filter_empty_gt=False, min_size=1)
    assert 'have no objects and are learned as background' in '\n'.join(dataset.notes)


def test_unused_categories_are_left_out(edit):
    root = edit(lambda content: content['categories'].extend([dict(id=90, name='shapes'), dict(id=91, name='Ring')]))
    dataset = recognise(root)
    assert dataset.classes == list(CLASSES)
    assert '2 of 10 classes have no objects' in (notes := '\n'.join(dataset.notes)) and 'ring' in notes


@pytest.mark.parametrize('name', ['coco', 'yolo', 'voc'])
def test_files_with_a_byte_order_mark_are_read(data, name):
    root = data(name)
    before = recognise(root)
    for path in root.rglob('*'):
        if path.suffix in ('.json', '.txt', '.yaml', '.xml'):
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b'\n', b'\r\n'))
            path.rename(path.with_suffix('.TXT' if name == 'yolo' and path.suffix == '.txt' else path.suffix))
    after = recognise(root)
    assert before.classes == after.classes and [split.counts for split in before.splits.values()] == [
        split.counts for split in after.splits.values()]


@pytest.mark.parametrize('line', ['1 .5 .5 .2 .2 0.87', '1.0, 0.5, 0.5, 0.2, 0.2', '1\t.5\t.5\t.2\t.2 ',
                                  '1 .4 .4 .6 .4 .6 .6 .4 .6 0.9'])
def test_lines_of_yolo_labels_as_tools_write_them(data, line):
    root = data('yolo')
    (root / 'labels/train/000001.txt').write_text(f'{line}\n\n')
    (found,) = recognise(root).splits['train'].samples[1].objects
    np.testing.assert_allclose(found.box, [25.6, 25.6, 38.4, 38.4], atol=0.01)


def write_text(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def truncate(name):
    def apply(root):
        (root / name).write_bytes((root / name).read_bytes()[:-2000])
    return apply


def turn(root):
    Image.new('RGB', (64, 32)).save(root / 'img_dir/train/000003.png')
    Image.new('L', (32, 64)).save(root / 'ann_dir/train/000003.png')


VAL = ['--val', 'annotations/instances_val.json']
BAD = [
    ('coco', lambda root: write_text(root, VAL[1], '[1]'), VAL, 'has no objects in COCO format'),
    ('coco', lambda root: shutil.copy(root / 'annotations/instances_val.json', root / 'annotations/train_2.json'), [],
     '--train FILE --val FILE'),
    ('coco', lambda root: shutil.rmtree(root / 'images/val'), [], 'are those for validation missing?'),
    ('coco', lambda root: shutil.rmtree(root / 'images'), [], '12 (first coco/000000.png) of 12 images'),
    ('coco', lambda root: write_text(root, 'Annotations/1.xml', '<annotation/>'), [], '--format {coco,voc}'),
    ('coco', lambda root: None, ['--train', 'no.json'], 'no.json does not exist'),
    ('coco', lambda root: None, ['--train', 'no.json', '--format', 'voc'], 'unsupported with --format voc'),
    ('coco', lambda root: None, ['--format', 'yolo'], 'has no YOLO labels'),
    ('coco', lambda root: None, ['--out', 'coco/shapes.json'], 'coco/shapes.json: Not a directory'),
    ('coco', lambda root: None, ['--out', 'coco'], 'which init did not write'),
    ('coco', lambda root: None, ['--out', 'coco/shapes.json/x'], 'cannot be created'),
    ('coco', lambda root: None, ['--model', 'segformer'], 'expected a model for detection, maskrcnn'),
    ('coco', lambda root: None, ['--model', 'm3'], 'an architecture, m0_6, m0_9, m1_0, m1_1, m1_5, m2_3, or both'),
    ('yolo', lambda root: None, ['--model', 'rtmdet-ins'], 'choose fasterrcnn or rtmdet'),
    ('voc', lambda root: write_text(root, 'Annotations/train_000000.xml', '<annotation><object>'), [],
     'train_000000.xml cannot be read'),
    ('voc', lambda root: write_text(root, 'Annotations/train_000000.xml', '<annotation><object/></annotation>'), [],
     'expected objects with a name'),
    ('voc', lambda root: shutil.rmtree(root / 'JPEGImages'), [], 'are missing'),
    ('voc', lambda root: write_text(root, 'ImageSets/Main/val.txt', 'other\n'), [], 'lists other'),
    ('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '8 .5 .5 .1 .1\n'), [],
     '000001.txt, line 1: the class 8'),
    ('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '\n1 .5 .5 .1\n'), [],
     '000001.txt, line 2: expected a class'),
    ('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '1 .5 nan .1 .1\n'), [],
     '000001.txt, line 1: expected a class'),
    ('yolo', lambda root: write_text(root, 'labels/train/000001.txt', '1 20 20 9 9\n'), [], 'not pixels'),
    ('yolo', lambda root: (root / 'data.yaml').unlink(), [], 'names of the classes'),
    ('yolo', lambda root: write_text(root, 'data.yaml', 'names: ['), [], 'not valid YAML'),
    ('csv', lambda root: write_text(root, 'train/_annotations.csv', 'image,x1,y1,x2,y2,class\n000001.png,9,9,5,12,a'),
     [], 'box 1 of 000001.png: expected x1 < x2'),
    ('csv', lambda root: (root / 'train/000008.png').unlink(), [], '1 (csv/train/000008.png) of 18'),
    ('csv', lambda root: (root / 'train/000002.png').unlink(), [], 'is another image of that name missing?'),
    ('labelme', lambda root: write_text(root, 'train/000001.json', '{"shapes": [{"label": 1}], "imagePath": ""}'), [],
 "000001.json cannot be read as LabelMe JSON: no 'points'"),
    ('cvat', lambda root: write_text(root, 'annotations.xml', '<annotations><image>'), [],
     'cannot be read as CVAT XML'),
    ('label_studio', lambda root: write_text(root, 'project.json', '[{"data": {}, "annotations": [1]}]'), [],
     'cannot be read as Label Studio JSON'),
    ('labels', lambda root: (root / 'ann_dir/train/000003.png').unlink(), [], 'have no label image'),
    ('labels', lambda root: [(root / name / 'val').rename(root / name / 'more') for name in ('img_dir', 'ann_dir')], [],
     'expected one, or one for each of train and val'),
    ('labels', lambda root: Image.new('L', (60, 64)).save(root / 'ann_dir/train/000003.png'), [], 'is 64 x 64 pixels'),
    ('labels', turn, [], "is 32 x 64; if they were made without the image's EXIF"),
    ('folders', lambda root: shutil.rmtree(root / 'train'), [], 'no folder for train'),
]


@pytest.mark.parametrize(('name', 'spoil', 'options', 'message'), BAD)
def test_bad_data_is_one_line_and_nothing_is_written(data, name, spoil, options, message):
    root = data(name)
    spoil(root)
    before = sorted(root.parent.rglob('*'))
    done = run_tool('init', root.name, *options)
    assert done.status == 1 and done.err.startswith('error: ') and done.err.count('\n') == 1, done.err
    assert not (done.out and '--model' in options), 'the table of the data'
    assert message in done.err
    assert sorted(root.parent.rglob('*')) == before


def test_all_kinds_of_faults_are_named_at_once(edit):
    root = edit(lambda content: [item.update(bbox=[0.1, 0.1, 0.2, 0.2]) for item in content['annotations']])
    path = root / 'annotations/instances_val.json'
    content = json.loads(path.read_text())
    content['categories'].reverse()
    content['images'].append(dict(id=99, file_name='lost.png', width=64, height=64))
    path.write_text(json.dumps(content))
    truncate('images/train/000003.png')(root)
    with pytest.raises(DatasetError) as error:
        recognise(root)
    kinds = re.split(r' ?\(\d\) ', str(error.value))[1:]
    for kind, part in zip(kinds, ('train.json: all boxes are fractions', 'val.json: all boxes are fractions',
                                  'they have them in another order', r'1 (\S*lost.png) of 19 images of .* are missing',
                                  '1 of 18 images cannot be decoded: .*000003.png; repair'), strict=True):
        assert re.search(part.replace('(', r'\(').replace(')', r'\)'), kind), kind


def test_a_damaged_image_of_a_class_is_counted_once(data):
    root = data('folders')
    truncate('train/ring/000006.png')(root)
    dataset = recognise(root)
    assert [note for note in dataset.notes if '000006' in note] == [
        f'1 ({root}/train/ring/000006.png) of 24 images of train cannot be decoded, and are skipped']
    assert len(dataset.splits['train'].samples) == 23


@pytest.mark.parametrize('name', ['coco', 'yolo', 'labels', 'csv'])
def test_a_damaged_image_is_counted_once(data, name):
    root = data(name)
    path = next(path for path in sorted(root.rglob('*.png')) if 'train' in str(path) and 'ann_dir' not in str(path))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match=rf'^1 of \d+ images cannot be decoded: {path}; repair them, or remove'):
        recognise(root)


@pytest.mark.parametrize(('files', 'message'), [
    ({'a.txt': 'hello'}, 'has no annotations or class folders'), ({'a.json': '{"a": 1}'}, 'has no annotations'),
    ({'a.json': '{'}, 'is not valid JSON')])
def test_folder_without_data(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        recognise(tmp_path)
