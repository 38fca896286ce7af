"""Unusable labels are an error before a run starts, in one line that names the file."""
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes import TOOLBOXES, segmentation

CLASSES = ('sky', 'road', 'car')


@pytest.fixture(autouse=True)
def mmseg_scope():
    pytest.importorskip('mmseg')
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def root(tmp_path) -> Path:
    """Six images of 40 x 30 with labels of three classes."""
    for i in range(6):
        for folder in ('images', 'labels'):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new('RGB', (40, 30)).save(tmp_path / f'images/{i}.jpg')
        write_label(tmp_path / f'labels/{i}.png', [0, 1, 2, 255])
    return tmp_path


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """Log of the checks."""
    lines = []
    monkeypatch.setattr(segmentation, 'print_log', lambda line, *_, **__: lines.append(line))
    return lines


def write_label(path: Path, values: list[int], size: tuple[int, int] = (40, 30), dtype: type = np.uint8) -> None:
    Image.fromarray(np.resize(np.array(values, dtype), size[::-1])).save(path)


def settings(root: Path, **changes) -> dict:
    return dict(
        type='BaseSegDataset', metainfo=dict(classes=CLASSES), data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]) | changes


def check(root: Path, **changes) -> None:
    TOOLBOXES['mmseg'].check_dataset(DATASETS.build(settings(root, **changes)))


def test_a_whole_data_set_passes_with_a_line_and_is_not_changed(root, lines):
    before = (root / 'labels/0.png').read_bytes()
    check(root)
    assert (root / 'labels/0.png').read_bytes() == before
    assert len(lines) == 1 and lines[0].startswith(f'6 labels in {root}/labels fit their images and the 3 classes')


@pytest.mark.parametrize(('values', 'changes'), [([255], {}), ([0], dict(reduce_zero_label=True))])
def test_labels_without_a_class_are_counted_and_refused_where_there_are_no_others(root, lines, values, changes):
    for i in range(6):
        write_label(root / f'labels/{i}.png', values if i else [1])
    check(root, **changes)
    assert '5 of 6 labels in ' in lines[0] and 'ignored values only' in lines[0] and len(lines) == 2
    write_label(root / 'labels/0.png', values)
    with pytest.raises(DatasetError, match='^6 of 6 labels in .* hold ignored values only; there is nothing to learn'):
        check(root, **changes)


@pytest.mark.parametrize('wrap', [
    lambda inner: RepeatDataset(inner, times=2),
    lambda inner: ConcatDataset([inner, inner]),
])
def test_wrapped_data_sets_are_checked(root, wrap):
    write_label(root / 'labels/4.png', [3])
    with pytest.raises(DatasetError, match='4.png'):
        TOOLBOXES['mmseg'].check_dataset(wrap(DATASETS.build(settings(root))))


@pytest.mark.parametrize(('spoil', 'expected'), [
    (lambda root: write_label(root / 'labels/3.png', [0, 7, 3, 255]),
     r'labels/3.png holds 3, 7; for 3 classes, expected 0-2 and 255'),
    (lambda root: write_label(root / 'labels/3.png', [300], dtype=np.uint16), r'labels/3.png holds 300; '),
    (lambda root: Image.new('RGB', (40, 30)).save(root / 'labels/3.png'), r'labels/3.png has 3 channels'),
    (lambda root: (root / 'labels/3.png').write_bytes(b'no image'), r'labels/3.png cannot be read as a label image'),
    (lambda root: write_label(root / 'labels/3.png', [0], size=(30, 40)),
     r'images/3.jpg is 40 x 30 pixels, but its label \S+labels/3.png is 30 x 40'),
    (lambda root: (root / 'labels/3.png').unlink(),
     r'labels/3.png cannot be read as a label image: .*No such file'),
    (lambda root: (root / 'images/3.jpg').unlink(), r'1 labels have no image \S+images/\*.jpg, first \S+labels/3.png'),
])
def test_each_mistake_names_its_file(root, spoil, expected):
    spoil(root)
    with pytest.raises(DatasetError, match=expected) as info:
        check(root)
    assert '\n' not in str(info.value)


@pytest.mark.parametrize(('changes', 'values', 'fits'), [
    (dict(reduce_zero_label=True), [0, 1, 2, 3, 255], True),
    (dict(reduce_zero_label=True), [4], False),
    (dict(ignore_index=9), [0, 9, 255], True),
    (dict(ignore_index=9), [8], False),
])
def test_labels_are_checked_by_the_settings_of_the_data_set(root, changes, values, fits):
    write_label(root / 'labels/2.png', values)
    if fits:
        check(root, **changes)
    else:
        with pytest.raises(DatasetError, match='2.png holds'):
            check(root, **changes)


def test_some_classes_of_a_known_data_set_may_be_chosen(root):
    write_label(root / 'labels/2.png', [0, 18, 255])  # Cityscapes has 19 classes; what is not chosen is ignored
    changes = dict(type='CityscapesDataset', metainfo=dict(classes=('road', 'car')), img_suffix='.jpg',
                   seg_map_suffix='.png')
    check(root, **changes)
    write_label(root / 'labels/2.png', [19])
    with pytest.raises(DatasetError, match='2.png holds 19'):
        check(root, **changes)


@pytest.mark.parametrize('changes', [
    dict(indices=3),  # the first three images
    dict(ann_file='names.txt'),
    dict(pipeline=[dict(type='LoadImageFromFile')]),
])
def test_labels_that_are_not_used_need_no_image(root, changes):
    (root / 'names.txt').write_text('1\n2\n')
    (root / 'images/5.jpg').unlink()
    check(root, **changes)


def test_an_image_turned_by_its_camera_has_the_size_it_is_loaded_with(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (30, 40)).save(root / 'images/1.jpg', exif=exif)
    check(root)


def config(metainfo: dict | None = None, kind: str = 'BaseSegDataset', classes: int = 3, auxiliary: int = 3) -> Config:
    dataset = dict(type=kind, metainfo=metainfo)
    return Config(
        dict(model=dict(decode_head=dict(num_classes=classes), auxiliary_head=[dict(num_classes=auxiliary)]),
             train_dataloader=dict(dataset=dataset)), cfg_text=' ', filename='my_config.py')


def check_config(cfg: Config) -> None:
    TOOLBOXES['mmseg'].adapt_config(cfg, ['train_dataloader'])


@pytest.mark.parametrize('cfg', [
    config(dict(classes=CLASSES, palette=[[0, 0, 0]] * 3)),
    config(dict(classes=CLASSES)),
    config(kind='CityscapesDataset', classes=19, auxiliary=19),
    config(dict(classes=('road', 'car', 'sky')), kind='CityscapesDataset'),  # its palette has 19 colours
], ids=['palette', 'no palette', 'known', 'part of known'])
def test_classes_that_fit_pass(cfg):
    check_config(cfg)


@pytest.mark.parametrize(('cfg', 'expected'), [
    (config(dict(classes=CLASSES), classes=150), '3 classes, but model.decode_head.num_classes=150'),
    (config(dict(classes=CLASSES), auxiliary=19), '3 classes, but model.auxiliary_head.num_classes=19'),
    (config(), 'BaseSegDataset has no classes'),
])
def test_classes_that_do_not_fit_name_the_config(cfg, expected):
    with pytest.raises(ConfigError, match=f'^my_config.py, train_dataloader: .*{expected}') as info:
        check_config(cfg)
    assert '\n' not in str(info.value)
