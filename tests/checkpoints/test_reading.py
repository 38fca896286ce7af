import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from bad_files import RunsCode
from safetensors.torch import save_file

from repvit_mm.checkpoints import check_classes, classes_of, read_checkpoint, tensors_of
from repvit_mm.errors import CheckpointError

WEIGHTS = {'a.weight': torch.arange(6.).reshape(2, 3), 'a.count': torch.tensor(3)}


def equal(result, expected):
    return result.keys() == expected.keys() and all(torch.equal(result[name], expected[name]) for name in expected)


LEGACY = pytest.mark.parametrize('settings', [{}, {'_use_new_zipfile_serialization': False}], ids=['zip', 'legacy'])


@LEGACY
def test_weights_are_read_in_their_dtype(tmp_path, settings):
    weights = {str(dtype): torch.randn(3, 2).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    torch.save(weights, tmp_path / 'x.pth', **settings)
    result = read_checkpoint(tmp_path / 'x.pth')
    assert equal(result, weights) and all(str(value.dtype) == name for name, value in result.items())


def test_safetensors_files_are_read_under_any_name(tmp_path):
    save_file(WEIGHTS, tmp_path / 'x.bin')
    assert equal(read_checkpoint(tmp_path / 'x.bin'), WEIGHTS)


@LEGACY
def test_code_in_a_file_does_not_run_unless_it_is_trusted(tmp_path, settings):
    made = tmp_path / 'made'
    torch.save({'model': WEIGHTS, 'args': RunsCode(made)}, tmp_path / 'x.pth', **settings)
    with pytest.raises(CheckpointError, match=r'x\.pth needs the type .*mkdir.* trust=True') as error:
        read_checkpoint(tmp_path / 'x.pth')
    assert '\n' not in str(error.value)
    assert not made.exists()
    assert equal(read_checkpoint(tmp_path / 'x.pth', trust=True)['model'], WEIGHTS)
    assert made.is_dir()


def test_a_pickled_module_needs_trust(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'needs the type torch\.nn\.modules\.linear\.Linear'):
        read_checkpoint(tmp_path / 'x.pth')
    weights = tensors_of(read_checkpoint(tmp_path / 'x.pth', trust=True), 'x.pth')
    assert list(weights) == ['weight', 'bias']


def truncated(size, **settings):
    def make(path):
        torch.save({'model': {'a': torch.zeros(10_000)}}, path, **settings)
        path.write_bytes(path.read_bytes()[:size])
    return make


def zipped(name, content, compression=zipfile.ZIP_STORED):
    def make(path):
        with zipfile.ZipFile(path, 'w', compression) as archive:
            archive.writestr(name, content)
    return make


def damaged(path):
    torch.save({'model': {'a': torch.zeros(10_000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(30_000)) + 20_000] = 1
    path.write_bytes(content)


def cut_safetensors(path):
    save_file({'a': torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize('make,message', [
    (lambda path: None, 'there is no file'),
    (Path.mkdir, 'is a folder'),
    (os.mkfifo, 'is a pipe, socket or device; a file is expected'),
    (zipped('x/data.pkl', bytes(10_000_000), zipfile.ZIP_DEFLATED), 'its parts are larger than the file'),
    (lambda path: path.write_bytes(b''), 'is empty'),
    (lambda path: path.write_text('epoch 1: loss 0.3\n' * 9), "is not a checkpoint: it begins with b'epoch 1"),
    (lambda path: path.write_text('\n<!DOCTYPE html>\n<html><body>Sign in</body></html>'), 'is a web page'),
    (lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n'),
     'is a Git LFS pointer'),
    (zipped('model/readme.txt', 'x'), 'not written by torch.save'),
    (lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path), 'is a TorchScript program'),
    (truncated(20_000), 'is truncated'),
    (truncated(100), 'is truncated'),
    (truncated(200, _use_new_zipfile_serialization=False), 'is damaged'),
    (truncated(20_000, _use_new_zipfile_serialization=False), 'is damaged'),
    (damaged, 'is damaged: the checksum of x/data/0 in it is wrong'),
    (cut_safetensors, 'is damaged'),
])
def test_other_files_are_rejected_in_one_line_with_the_reason(tmp_path, make, message):
    path = tmp_path / 'x.pth'
    make(path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['a' * 300, 'a\0b'], ids=['long', 'null'])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(CheckpointError, match='cannot be read: File name too long|embedded null byte'):
        read_checkpoint(name)


@pytest.mark.parametrize('name', [3, None, ('a',)], ids=str)
def test_names_that_are_not_text_are_refused(tmp_path, name):
    torch.save({'model': {**WEIGHTS, name: torch.zeros(1)}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth: a tensor has the name .*; expected a string'):
        tensors_of(read_checkpoint(tmp_path / 'x.pth'), 'x.pth')


@pytest.mark.parametrize('tensor,kind', [
    (torch.eye(3).to_sparse(), 'x.pth holds tensors that no model loads'),
    (torch.eye(3).to_sparse_csr(), 'x.pth holds tensors that no model loads'),
    (torch.quantize_per_tensor(torch.ones(3), 1., 0, torch.qint8), 'x.pth holds tensors that no model loads'),
    (torch.empty(3, device='meta'), 'x.pth holds tensors that no model loads'),
    (torch.ones(3, dtype=torch.complex64), 'x.pth: odd is not an ordinary tensor .* torch.complex64'),
    (torch.zeros(1).expand(10**6, 10**6), 'odd is not an ordinary tensor with all of its values in the file'),
    (torch.zeros([1] * 65), 'odd is not an ordinary tensor .* 65 dimensions'),
], ids=['sparse', 'sparse rows', 'quantised', 'meta', 'complex', 'expanded', 'dimensions'])
def test_tensors_that_no_model_takes_are_refused(tmp_path, tensor, kind):
    torch.save({'model': {**WEIGHTS, 'odd': tensor}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=kind):
        tensors_of(read_checkpoint(tmp_path / 'x.pth'), 'x.pth')


def test_half_a_byte_is_no_number_of_a_safetensors_file(tmp_path):
    header = json.dumps({'odd': {'dtype': 'F4', 'shape': [4], 'data_offsets': [0, 2]}}).encode()
    (tmp_path / 'x.pth').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(2))
    with pytest.raises(CheckpointError, match='x.pth: odd is not an ordinary tensor|x.pth is damaged'):
        tensors_of(read_checkpoint(tmp_path / 'x.pth'), 'x.pth')


@pytest.mark.parametrize('key', ['state_dict', 'model', 'model_ema', 'state_dict_ema', 'ema_state_dict'])
def test_weights_are_found_where_programs_keep_them(key):
    assert equal(tensors_of({'epoch': 3, key: WEIGHTS, 'optimizer': {'state': {}}}, 'x'), WEIGHTS)


def test_plain_weights_go_before_averaged_ones():
    average = {name: value + 1 for name, value in WEIGHTS.items()}
    assert equal(tensors_of({'model_ema': average, 'model': WEIGHTS}, 'x'), WEIGHTS)
    assert equal(tensors_of({'ema_state_dict': average, 'state_dict': WEIGHTS}, 'x'), WEIGHTS)


def test_a_state_dict_may_hold_more_than_tensors():
    assert equal(tensors_of({**WEIGHTS, '_extra_state': None}, 'x'), WEIGHTS)


@pytest.mark.parametrize('content,described', [
    ({'epoch': 3, 'lr': 0.1}, 'a dict with epoch, lr'), ({}, 'a dict with no keys'), ([1, 2], 'a list'),
    ({'state_dict': {}}, 'a dict with state_dict')], ids=str)
def test_a_file_without_tensors_is_refused(content, described):
    with pytest.raises(CheckpointError, match=f'x.pth holds no tensors, but {described}; expected weights'):
        tensors_of(content, 'x.pth')


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='torch always wrote them before 2.6')
def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / 'x.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_checkpoint(tmp_path / 'x.pth'), WEIGHTS)


# --- Names of classes ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('content', [
    {'meta': {'dataset_meta': {'classes': ['cat', 'dog']}}}, {'meta': {'CLASSES': ('cat', 'dog')}},
    {'class_names': ['cat', 'dog']}])
def test_the_names_of_classes_are_found_where_programs_keep_them(content):
    assert classes_of(content, 'x.pth') == ('cat', 'dog')
    check_classes(content, ['cat', 'dog'], 'x.pth')
    check_classes(content, None, 'x.pth')
    with pytest.raises(CheckpointError, match="x.pth has the classes of the config in another order, cat, dog; write "
                                              r"metainfo=dict\(classes=\('cat', 'dog'\)\) into the data sets"):
        check_classes(content, ['dog', 'cat'], 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth was trained on other classes .*: it has dog, the config has bird'):
        check_classes(content, ['cat', 'bird'], 'x.pth')
    check_classes({}, ['cat', 'bird'], 'x.pth')


@pytest.mark.parametrize('classes', [3, 1.5, float('nan'), 'cat', {'cat': 1}, [1, 2], [None], True])
def test_classes_of_another_type_are_refused(classes):
    with pytest.raises(CheckpointError, match='x.pth: classes is .*; expected a list of the names of the classes'):
        classes_of({'meta': {'dataset_meta': {'classes': classes}}}, 'x.pth')
