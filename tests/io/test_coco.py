"""Annotations as tools write them: what has one meaning is repaired and said, the rest is one line."""
import copy
import json
import os
import unicodedata

import pytest
from PIL import Image

from repvit_mm.errors import DatasetError
from repvit_mm.io import coco_images
from repvit_mm.io.coco import check_coco, read_coco

WIDTH, HEIGHT = 40, 30
BOXES = [[2, 3, 10, 12], [20, 15, 18, 14]]


def content(names=('0.jpg', '1.jpg'), **changes):
    """Two objects in each image; ``changes`` are made to every annotation."""
    return dict(
        images=[dict(id=number, file_name=name, width=WIDTH, height=HEIGHT) for number, name in enumerate(names)],
        annotations=[dict(id=2 * number + place + 1, image_id=number, category_id=place + 1, bbox=list(box), iscrowd=0,
                          area=box[2] * box[3]) | changes for number in range(len(names))
                     for place, box in enumerate(BOXES)],
        categories=[dict(id=1, name='square'), dict(id=2, name='disc')])


@pytest.fixture
def read(tmp_path):
    """Writes annotations and images, and reads them."""
    def read(annotations, files=('0.jpg', '1.jpg'), size=(WIDTH, HEIGHT), orientation=1, encoding='utf-8'):
        folder = tmp_path / 'images'
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', size).save(folder / name, 'JPEG', exif=exif)
        path = tmp_path / 'instances.json'
        path.write_bytes(json.dumps(annotations, ensure_ascii=False).encode(encoding))
        return read_coco(path, folder)
    return read


def test_good_annotations_stay_as_they_are(read):
    good = content()
    found, notes = read(copy.deepcopy(good))
    assert found == good and not notes


@pytest.mark.parametrize('ids', [range(4), ['a', 'b', 'c', 'd'], [7, 7, 8, 9], [1, 2, 3, None], [-1, 1, 2, 3],
                                 [1., 2., 3., 4.5]], ids=str)
def test_ids_that_cocoeval_confuses_are_numbered_anew(read, ids):
    annotations = content()
    for annotation, value in zip(annotations['annotations'], ids, strict=True):
        annotation['id'] = value
    found, notes = read(annotations)
    assert [annotation['id'] for annotation in found['annotations']] == [1, 2, 3, 4]
    assert [note.partition(': ')[2] for note in notes] == (
        ['1 of 4 annotations have the id of another one, first 7; they are numbered anew'] if 7 in ids else [])


@pytest.mark.parametrize('changes', [dict(area=None), dict(iscrowd=None), dict(segmentation=[]), dict(keypoints=[]),
                                     dict(bbox=None, segmentation=[[2, 3, 12, 3, 12, 15]])], ids=str)
def test_missing_entries_are_added(read, changes):
    annotations = content(**changes)
    for annotation in annotations['annotations']:
        for key in [key for key, value in changes.items() if value is None]:
            del annotation[key]
    found, notes = read(annotations)
    first = found['annotations'][0]
    assert (first['bbox'], first['area'], first['iscrowd']) == (BOXES[0], 120, 0) and not notes


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_encodings_of_windows_are_read(read, encoding):
    annotations = content()
    annotations['categories'][0]['name'] = 'Bär'
    assert read(annotations, encoding=encoding)[0] == annotations
    with pytest.raises(DatasetError, match='instances.json is not a text file in UTF-8'):
        read(annotations, encoding='latin-1')


def change(annotations, **changes):
    annotations['annotations'][1].update(changes)


def name(annotations, *names, **extra):
    annotations['categories'] = [dict(id=number, name=value) | extra for number, value in enumerate(names, 1)]


def crowd_of_other_size(annotations):
    change(annotations, segmentation=dict(size=[9, 9], counts=[81]))


@pytest.mark.parametrize('spoil, message', [
    (lambda a: change(a, category_id=5), r'1 of 4 objects are of the categories 5, which the file does not list; it '
                                         r'lists 1 \(square\), 2 \(disc\)'),
    (lambda a: name(a, 'disc', 'disc'), 'several categories have the name disc'),
    (lambda a: a['categories'][1].update(id=1), 'several categories have the id 1'),
    (lambda a: change(a, bbox=[1, 2, 3]), 'annotations: entry 1 is .*; expected image_id'),
    (lambda a: change(a, bbox=None), 'annotations: entry 1 is'),
    (lambda a: change(a, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), 'annotations: entry 1 is'),
    (lambda a: a['images'][1].update(id=0), 'the images 0.jpg and 1.jpg have the same id 0'),
    (lambda a: change(a, segmentation=[[1, 2, 3, 4, 5, 1e9]]), 'annotations: entry 1 is'),
    (lambda a: change(a, iscrowd=2), 'annotations: entry 1 is'),
    (crowd_of_other_size, 'annotations: entry 1 is'),
    (lambda a: a['images'][0].pop('width'), 'images: entry 0 is .*; expected id, file_name, height and width'),
    (lambda a: a.pop('categories'), 'categories: expected a list'),
])
def test_meaningless_combinations_are_one_line(spoil, message):
    annotations = content()
    spoil(annotations)
    with pytest.raises(DatasetError, match=f'^x.json: {message}') as error:
        check_coco(annotations, 'x.json')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('written, expected, notes', [
    ([1, 2, 9, 2, 9, 8], [[1, 2, 9, 2, 9, 8]], 0), ([[1, 2, 9, 2], [1, 2, 9, 2, 9, 8]], [[1, 2, 9, 2, 9, 8]], 1),
    ([[1, 2]], [], 1), ([], [], 0)])
def test_polygons_that_are_flat_or_have_no_area(written, expected, notes):
    annotations = content()
    change(annotations, segmentation=written)
    found = check_coco(annotations, 'x.json')
    assert annotations['annotations'][1]['segmentation'] == expected
    assert found == ['x.json: 1 polygons have fewer than three points and are left out'] * notes


def rename_root(annotations, **root):
    name(annotations, 'square', 'disc', supercategory='shapes')
    annotations['categories'].insert(0, dict(id=0, **root))


def count_from_0(annotations):
    for key, entries in (('id', annotations['categories']), ('category_id', annotations['annotations'])):
        for entry in entries:
            entry[key] -= 1


@pytest.mark.parametrize('spoil, note, images, categories', [
    (lambda a: a['images'].extend(a['images']), '2 images are listed twice', 2, 2),
    (lambda a: rename_root(a, name='shapes', supercategory='none'), 'category shapes (id 0) has no objects', 2, 2),
    (lambda a: rename_root(a, name='disc'), 'category disc (id 0) has no objects', 2, 2),
    (count_from_0, None, 2, 2), (lambda a: name(a, 'disc ', 'square'), "begin or end with a space: 'disc '", 2, 2),
    (lambda a: name(a, 'Disc', 'disc'), 'differ by upper and lower case only: Disc, disc', 2, 2)])
def test_odd_images_and_categories_are_said(spoil, note, images, categories):
    annotations = content()
    spoil(annotations)
    notes = check_coco(annotations, 'x.json')
    assert len(notes) == bool(note) and (note or '') in ''.join(notes)
    assert (len(annotations['images']), len(annotations['categories'])) == (images, categories)


# --- Images --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('written', [
    'shots\\{}', 'C:\\me\\shots\\{}', './shots/{}', '../shots/{}', '/home/me/shots/{}', 'shots/{}', '/data/upload/3/{}',
    '/data/upload/3/ab12cd34-{}', '/data/local-files/?d=shots/{}', 's3://bucket/shots/{}', '%2E/{}'])
def test_images_are_found_by_the_last_part_of_their_name(read, written):
    found, notes = read(content([written.format(name) for name in ('a b.jpg', '1.jpg')]), ['a b.jpg', '1.jpg'])
    assert [os.path.normpath(image['file_name']) for image in found['images']] == ['a b.jpg', '1.jpg']
    assert len(notes) == 1 and '2 of 2 images are found by the last part of their name' in notes[0]


@pytest.mark.parametrize('written, file', [
    ('a%20b.jpg', 'a b.jpg'), ('x.jpg', 'x.JPG'), ('x.JPG', 'y/x.jpg'), ('a+b%.jpg', 'a+b%.jpg'),
    (unicodedata.normalize('NFD', 'ä.jpg'), unicodedata.normalize('NFC', 'ä.jpg')),
    (unicodedata.normalize('NFC', 'ä.jpg'), unicodedata.normalize('NFD', 'ä.jpg'))])
def test_names_in_another_form_are_found(read, written, file):
    assert read(content([written]), [file])[0]['images'][0]['file_name'] == file


def test_of_several_images_of_a_name_the_one_in_the_same_folder_is_meant(read):
    files = ['a/0.jpg', 'b/0.jpg']
    assert [image['file_name'] for image in read(content(['x\\b\\0.jpg', 'x\\a\\0.jpg']), files)[0]['images']] == [
        'b/0.jpg', 'a/0.jpg']
    with pytest.raises(DatasetError, match=r'the image x\\0.jpg may be a/0.jpg or b/0.jpg in '):
        read(content(['x\\0.jpg']), files)
    with pytest.raises(DatasetError, match='the images a/1.jpg and b/1.jpg both match 1.jpg in '):
        read(content(['a/1.jpg', 'b/1.jpg']), ['1.jpg'])


def test_an_image_that_is_not_there_keeps_its_name(read):
    found, notes = read(content(['0.jpg', 'x/9.jpg']), ['0.jpg'])
    assert [image['file_name'] for image in found['images']] == ['0.jpg', 'x/9.jpg'] and not notes


@pytest.mark.parametrize('size, orientation', [((HEIGHT, WIDTH), 1), ((WIDTH, HEIGHT), 6)])
@pytest.mark.parametrize('looked_at', [1, 100])
def test_a_size_that_is_swapped_or_before_exif_becomes_the_images(read, monkeypatch, size, orientation, looked_at):
    monkeypatch.setattr(coco_images, 'LOOKED_AT', looked_at)
    annotations = content()
    for number, annotation in enumerate(annotations['annotations']):  # of an upright image
        annotation['bbox'] = [2, 3, 10, 12] if number % 2 else [3, 15, 14, 18]
    found, notes = read(annotations, size=size, orientation=orientation)
    assert {(image['width'], image['height']) for image in found['images']} == {(HEIGHT, WIDTH)}
    assert len(notes) == 1 and '2 of 2 images have another size than their files, first 0.jpg' in notes[0]


@pytest.mark.parametrize('size, orientation, advice', [
    ((WIDTH, HEIGHT), 6, '; if they were made without the image.s EXIF orientation, '
     'remove that from the images: exiftool -r -Orientation= FOLDER'),
    ((WIDTH // 2, HEIGHT // 2), 1, '')])
def test_a_size_that_the_boxes_do_not_fit_is_an_error(read, size, orientation, advice):
    real = ' x '.join(map(str, size[::-1] if orientation == 6 else size))
    with pytest.raises(DatasetError, match=f'0.jpg is {real}, but .*instances.json has annotations for 40 x 30 that do '
                                           f'not fit it{advice}$'):
        read(content(), size=size, orientation=orientation)


def test_run_lengths_for_another_size_are_an_error(read):
    masks = content(bbox=[1, 1, 5, 5], segmentation=dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH]))
    with pytest.raises(DatasetError, match='annotations for 40 x 30 that do not fit it'):
        read(masks, size=(HEIGHT, WIDTH))


@pytest.mark.parametrize('more, note', [
    (4, '2 of 4 boxes reach beyond their image, first [20, 15, 22, 14]'), (3, None)])
def test_boxes_beyond_their_image_are_counted(read, more, note):
    annotations = content()
    for annotation in annotations['annotations']:
        annotation['bbox'][2] += more
    assert [text.partition(': ')[2] for text in read(annotations)[1]] == ([note] if note else [])


@pytest.mark.parametrize('boxes, message', [
    (lambda x, y, w, h: [x, y, x + w, y + h], r'2 of 4 boxes reach beyond their image, first .*, and all '
                                              'fit as x1, y1, x2, y2; expected x, y, width, height'),
    (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
     r'all boxes are fractions of the image size, first \[0.05, .*\]; expected pixels')])
def test_boxes_in_other_units_are_an_error(read, boxes, message):
    annotations = content()
    for annotation in annotations['annotations']:
        annotation['bbox'] = boxes(*annotation['bbox'])
    with pytest.raises(DatasetError, match=message):
        read(annotations)


def test_infinite_boxes_and_foreign_images_are_left_to_the_data_set(read):
    annotations = content()
    change(annotations, bbox=[0, 0, float('inf'), 3], image_id=99)
    assert not read(annotations)[1]
