"""Files of images with several labels: what is wrong in them is said before a training starts."""
import json

import pytest

from repvit_mm.errors import DatasetError
from repvit_mm.io.class_folders import read_label_file

GOOD = dict(metainfo=dict(classes=['cat', 'dog']), data_list=[
    dict(img_path='1.jpg', gt_label=[0, 1]), dict(img_path='2.jpg', gt_label=[])])


def write(folder, content):
    path = folder / 'labels.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_classes_are_those_of_the_file(tmp_path):
    assert read_label_file(write(tmp_path, GOOD)) == ['cat', 'dog']


@pytest.mark.parametrize('content, message', [
    ('{"metainfo": ', 'is not valid JSON: '),
    ([], 'is not a file of labels: expected {"metainfo"'),
    (dict(images=[], categories=[]), 'is not a file of labels: expected'),
    ({**GOOD, 'data_list': [dict(img_path='1.jpg')]}, 'is not a file of labels: expected'),
    ({**GOOD, 'metainfo': dict(classes='cat')}, "classes is 'cat', expected a list of names"),
    ({**GOOD, 'metainfo': dict(classes=[])}, 'expected a list of names'),
    *(({**GOOD, 'data_list': [*GOOD['data_list'], dict(img_path='3.jpg', gt_label=labels)]},
       f'1 of 3 images have labels that are not a list of numbers from 0 to 1, first 3.jpg: {labels!r}')
      for labels in ([2], [-1], ['cat'], 1, [True], None)),
])
def test_mistake_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DatasetError) as error:
        read_label_file(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r'none\.json does not exist'):
        read_label_file(tmp_path / 'none.json')
