"""Label images: when folders are some, what their values mean, and what is drawn of them."""
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from repvit_mm.datasets.formats import recognise
from repvit_mm.datasets.sheet import draw_sheet
from repvit_mm.errors import DatasetError


def save_images(*folders, suffix='.png'):
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(6):
            Image.new('L', (32, 32), i).save(folder / f'{i:04}{suffix}')


@pytest.mark.parametrize('split', ['', 'train', 'val'])
def test_classes_called_like_labels_are_asked_about(tmp_path, split):
    save_images(tmp_path / split / 'mask', tmp_path / split / 'glasses')
    with pytest.raises(DatasetError, match='holds label images and class folders; choose with --format {labels,fol'):
        recognise(tmp_path)
    assert recognise(tmp_path, 'labels').kind == 'label images'
    if not split:
        assert recognise(tmp_path, 'folders').classes == ['glasses', 'mask']


@pytest.mark.parametrize('folders', [('images', 'mask'), ('my_photos', 'gt'), ('RGB', 'label'), ('a/x', 'b/masks')])
def test_unambiguous_label_images_need_no_choice(tmp_path, folders):
    save_images(*(tmp_path / folder for folder in folders))
    assert recognise(tmp_path).kind == 'label images'


def test_the_folder_of_the_segmentation_page_is_recognised(tmp_path):
    page = (Path(__file__).parents[2] / 'docs/segmentation.md').read_text()
    pairs = re.findall(r'^data/street/(\S+\.jpg) +data/street/(\S+\.png)$', page, re.M)
    for image, label in pairs:
        for path in (image, label):
            (tmp_path / path).parent.mkdir(parents=True)
            Image.new('L', (32, 32), 1).save(tmp_path / path)
    (tmp_path / 'classes.txt').write_text('road\nsky\n')
    dataset = recognise(tmp_path)
    assert dataset.classes == ['road', 'sky'] and not dataset.files
    assert [split.samples[0].path for split in dataset.splits.values()] == [tmp_path / image for image, _ in pairs]


def test_jpegs_are_no_label_images(tmp_path):
    save_images(tmp_path / 'a/images', tmp_path / 'a/masks', tmp_path / 'b/glasses', tmp_path / 'b/mask', suffix='.jpg')
    with pytest.raises(DatasetError, match='are JPEGs, whose compression changes values; save them as PNG'):
        recognise(tmp_path / 'a')
    assert recognise(tmp_path / 'b').classes == ['glasses', 'mask']


@pytest.fixture
def masks(tmp_path):
    """Writes label images from arrays (H, W) or (H, W, 3), with their images."""
    def write(*labels):
        for kind in ('images', 'masks'):
            (tmp_path / kind).mkdir()
        for i, label in enumerate(labels):
            Image.new('RGB', label.shape[1::-1], (128, 128, 128)).save(tmp_path / f'images/{i}.png')
            Image.fromarray(label.astype(np.uint8)).save(tmp_path / f'masks/{i}.png')
        return tmp_path
    return write


def pattern(*values):
    """Stripes of several values, (48, 96)."""
    return np.repeat(np.array(values), 96 // len(values))[None].repeat(48, 0)


TABLE = 'sky:10,20,30::\nroad:40,50,60::\ncar:70,80,90::\n'


@pytest.mark.parametrize(('label', 'files', 'classes', 'copied'), [
    (pattern(0, 1, 2), {'classes.txt': '\ufeffsky\nroad\ncar\n'}, ['sky', 'road', 'car'], None),
    (pattern(0, 1, 255), {}, ['class 0', 'class 1'], None),
    (pattern(0, 255), {}, ['background', 'object'], [0, 1]),
    (pattern(0, 128, 255), {}, ['level 0', 'level 128', 'level 255'], [0, 1, 2]),
    (np.dstack([pattern(0, 255)] * 3), {}, ['background', 'object'], [0, 1]),  # a grey mask saved in colour
    (255 - 5 * np.hypot(*np.mgrid[-20:28, -30:66]).clip(0, 51), {}, ['background', 'object'], [0, 1]),
    (np.dstack([pattern(10, 40, 70), pattern(20, 50, 80), pattern(30, 60, 90)]), {'labelmap.txt': TABLE},
     ['sky', 'road', 'car'], [0, 1, 2]),
    (np.dstack([pattern(10, 40, 70), pattern(20, 50, 80), pattern(30, 60, 90)]),
     {'class_dict.csv': 'name,r,g,b\nsky,10,20,30\nroad,40,50,60\ncar,70,80,90\n'}, ['sky', 'road', 'car'], [0, 1, 2]),
])
def test_values_of_label_images_become_classes(masks, label, files, classes, copied):
    root = masks(label, label[::-1], label, label)
    for name, text in files.items():
        (root / name).write_text(text)
    dataset = recognise(root)
    assert dataset.classes == classes
    written = {name: content for name, content in dataset.files.items() if name.startswith('labels/')}
    assert len(written) == (4 if copied else 0)
    for name, content in written.items():
        (root / 'copy.png').write_bytes(content)
        values = np.asarray(Image.open(root / 'copy.png'))
        assert np.unique(values).tolist() == copied and values[:, 0].max() == 0, name
        assert dataset.splits['train'].settings['data_prefix']['seg_map_path'] == '{{ fileDirname }}/labels/train'
    assert dataset.splits['val'].counts.total() == 48 * 96 - 48 * 32 * (label.max() == 255 and copied is None)


def blurred(*objects, radius=2):
    """Squares of (left, top, side, level), with smooth borders."""
    label = Image.new('L', (96, 48))
    for left, top, side, level in objects:
        label.paste(level, (left, top, left + side, top + side))
    return np.asarray(label.filter(ImageFilter.GaussianBlur(radius)))


@pytest.mark.parametrize(('label', 'levels'), [
    (blurred((9, 9, 20, 255)), [0, 255]), (blurred((9, 9, 20, 128), (50, 20, 16, 255)), [0, 128, 255]),
    (blurred((9, 9, 9, 128), (40, 20, 12, 128), (70, 9, 20, 255)), [0, 128, 255]),
    (blurred((9, 9, 2, 255), (40, 20, 3, 255), radius=1), [0, 255]), (blurred((9, 9, 20, 255), radius=0.4), [0, 255]),
    (blurred((9, 9, 2, 120), (40, 20, 2, 255), radius=0), [0, 120, 255]),
    (np.kron(np.arange(50).reshape(5, 10), np.ones((9, 9))), [*range(50)])], ids=map(str, range(7)))
def test_levels_of_blurred_borders_are_no_classes_but_thin_ones_are(masks, label, levels):
    dataset = recognise(masks(*[label] * 4))
    assert len(dataset.classes) == len(levels)
    nearest = np.abs(label[..., None].astype(int) - levels).argmin(2)
    np.testing.assert_array_equal(dataset.read_labels(dataset.root / 'masks/0.png'), nearest)
    said = [note for note in dataset.notes if 'levels, as of blurred borders, become the nearest' in note]
    assert len(said) == (np.unique(label).size > len(levels))


def test_colours_without_a_table_are_named(masks):
    with pytest.raises(DatasetError, match=r'2 colours without a class: .*\(9, 0, 0\).* into .*labelmap.txt'):
        recognise(masks(*[np.dstack([pattern(0, 9), pattern(8, 0), pattern(7, 0)])] * 4))


def test_ignored_pixels_are_not_drawn(masks):
    label = pattern(1, 1, 1, 1, 1, 255, 255, 255)
    dataset = recognise(masks(label, label, label, label))
    assert (len(dataset.classes), dataset.files.keys()) == (2, {'train.txt', 'val.txt'})
    draw_sheet(dataset, dataset.root / 'sheet.png')
    red, _, blue = np.moveaxis(np.asarray(Image.open(dataset.root / 'sheet.png').convert('RGB')).astype(int), -1, 0)
    assert (blue > red + 40).sum() > 20_000 > 2000 > (red > blue + 40).sum()  # class 1 is blue
