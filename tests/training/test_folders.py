import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from repvit_mm.errors import ConfigError, DatasetError
from repvit_mm.toolboxes import toolbox_of
from repvit_mm.training.classification import ImageFolder


def write_images(folder, count=4, suffix='.jpg'):
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}{suffix}')


@pytest.fixture
def split_root(tmp_path):
    for split, count in (('train', 4), ('val', 2)):
        for name in ('cat', 'ant', 'bee'):
            write_images(tmp_path / split / name, count)
    return tmp_path


@pytest.fixture
def flat_root(tmp_path):
    for name, suffix in (('cat', '.png'), ('ant', '.JPEG')):
        write_images(tmp_path / name, 10, suffix)
    return tmp_path


def names(dataset):
    return [dataset.get_data_info(i)['img_path'].replace('\\', '/').split('/')[-2:] for i in range(len(dataset))]


def test_folders_are_classes_in_alphabetical_order(split_root):
    train, val = (ImageFolder(split_root, split) for split in ('train', 'val'))
    assert train.metainfo['classes'] == val.metainfo['classes'] == ('ant', 'bee', 'cat')
    assert (len(train), len(val)) == (12, 6)
    assert [folder for folder, _ in names(train)] == ['ant'] * 4 + ['bee'] * 4 + ['cat'] * 4
    assert train.get_gt_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_without_splits_a_part_of_each_class_is_kept_for_validation(flat_root):
    write_images(flat_root / 'train', 10)  # a class may be called like a split
    train, val = (names(ImageFolder(flat_root, split)) for split in ('train', 'val'))
    assert len(train) == 24 and len(val) == 6
    assert not {tuple(n) for n in train} & {tuple(n) for n in val}
    assert [folder for folder, _ in val] == ['ant'] * 2 + ['cat'] * 2 + ['train'] * 2
    assert val == names(ImageFolder(flat_root, 'val')), 'the part is always the same'


def test_a_class_may_lack_validation_images_but_not_training_images(split_root):
    shutil.rmtree(split_root / 'val' / 'ant')
    assert ImageFolder(split_root, 'val').get_gt_labels().tolist() == [1, 1, 2, 2]
    write_images(split_root / 'val' / 'dog')
    with pytest.raises(DatasetError, match='has the classes dog, which .*train does not have'):
        ImageFolder(split_root, 'val')
    (split_root / 'train' / 'dog').mkdir()
    (split_root / 'train' / 'dog' / 'notes.txt').write_text('none yet')
    with pytest.raises(DatasetError, match=r'class folder \S+dog has no image'):
        ImageFolder(split_root)


def test_each_split_can_be_alone(split_root):
    (split_root / 'train').rename(split_root / 'elsewhere')
    (split_root / 'val').rename(split_root / 'valid')
    assert len(ImageFolder(split_root, 'val')) == 6
    with pytest.raises(DatasetError, match='no folder for train'):
        ImageFolder(split_root)
    (split_root / 'elsewhere').rename(split_root / 'train')
    shutil.rmtree(split_root / 'valid')  # a fifth of the training split is held out
    train, val = ({sample['img_path'] for sample in ImageFolder(split_root, split)} for split in ('train', 'val'))
    assert len(train) > len(val) > 0 and not train & val
    with pytest.raises(DatasetError, match='there is no folder'):
        ImageFolder(split_root / 'missing')


def test_a_root_too_high_up_is_not_taken_for_the_classes(tmp_path):
    for name in ('ant', 'bee'):
        write_images(tmp_path / 'insects' / 'train' / name)
    with pytest.raises(DatasetError, match=f'no folder for the training split .*, but {tmp_path}/insects has; '):
        ImageFolder(tmp_path)


def test_corrupt_images_are_counted_and_named_or_skipped(split_root):
    bee = split_root / 'train' / 'bee' / '1.jpg'
    bee.write_bytes(bee.read_bytes()[:-2000])
    (split_root / 'train' / 'cat' / '0.jpg').write_bytes(b'no image')
    with pytest.raises(DatasetError, match=r'2 of 12 images cannot be decoded') as error:
        ImageFolder(split_root)
    assert 'bee/1.jpg' in str(error.value) and 'cat/0.jpg' in str(error.value)
    assert "corrupt='skip'" in str(error.value) and '\n' not in str(error.value)
    dataset = ImageFolder(split_root, corrupt='skip')
    assert len(dataset) == 10
    assert not {('bee', '1.jpg'), ('cat', '0.jpg')} & {tuple(name) for name in names(dataset)}


def test_files_of_class_folders_that_are_no_images_are_counted(split_root, monkeypatch):
    logged = []
    monkeypatch.setattr('repvit_mm.training.folders.print_log', lambda text, *_: logged.append(text))
    (split_root / 'about.json').touch()  # beside the folders
    (split_root / 'train' / 'bee' / 'notes.txt').touch()
    assert len(ImageFolder(split_root)) == 12
    assert logged == [f'{split_root}: skipped, not images: 1 .txt']


@pytest.mark.parametrize(('wrong', 'message'), [
    (dict(split='test'), 'split'), (dict(corrupt='maybe'), 'corrupt')])
def test_settings_are_checked(split_root, wrong, message):
    with pytest.raises(ConfigError, match=message):
        ImageFolder(split_root, **wrong)


def test_a_config_takes_the_number_of_classes_from_the_folders(split_root, tmp_path_factory):
    cfg = Config.fromfile('configs/classification/finetune_distill_repvit_m0_6.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(split_root)
    toolbox_of(cfg).adapt_config(cfg, ())
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 3
    assert cfg.val_evaluator.topk == cfg.test_evaluator.topk == (1, )
    other = tmp_path_factory.mktemp('other')
    write_images(other / 'dog')
    cfg.test_dataloader.dataset.data_root = str(other)
    with pytest.raises(DatasetError, match='has the classes'):
        toolbox_of(cfg).adapt_config(cfg, ())
