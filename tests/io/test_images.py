"""Images of every mode and format become upright 8-bit RGB, the same for every reader; or one line says why not."""
import os

import mmengine.logging
import numpy as np
import pytest
from image_cases import CASES, HEIGHT, LOSSY, TURNS, WIDTH, as_rgb, distance, pixels, write
from PIL import Image, features

from repvit_mm.errors import UserError
from repvit_mm.io.files import find_files
from repvit_mm.io.image_files import IMAGE_SUFFIXES, choose_images, list_images, skipped_files
from repvit_mm.io.images import image_size, read_image, read_label_image


@pytest.mark.parametrize('mode, kind', CASES)
def test_every_mode_becomes_rgb(tmp_path, mode, kind):
    path, expected = write(tmp_path, mode, kind)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
    assert distance(found, expected) <= (20 if kind in LOSSY else 1)
    np.testing.assert_array_equal(read_image(path.read_bytes()), found)


@pytest.mark.parametrize('most, bits', [(255, 8), (1023, 10), (4095, 12)])
def test_few_of_16_bits_are_noted(tmp_path, monkeypatch, most, bits):
    lines = []
    monkeypatch.setattr(mmengine.logging, 'print_log', lambda line, *_: lines.append(line))
    for i, value in enumerate((most, 65535)):
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / f'{i}.png')
        assert read_image(tmp_path / f'{i}.png').max() == round(value / 257)
    assert len(lines) == 1 and f'multiply them by {2 ** (16 - bits)}' in lines[0]


@pytest.mark.parametrize('orientation', TURNS)
@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp', 'tif'])
def test_images_are_upright_and_have_the_size_of_their_header(tmp_path, kind, orientation):
    path, expected = write(tmp_path, as_rgb, kind, orientation)
    found = read_image(path)
    assert found.shape == expected.shape and image_size(path) == found.shape[1::-1]
    assert distance(found, expected) <= (20 if kind in LOSSY else 0)
    if kind != 'tif':
        assert read_image(path, upright=False).shape == (HEIGHT, WIDTH, 3)


def test_the_orientation_at_the_end_of_a_png_counts(tmp_path):
    path, expected = write(tmp_path, as_rgb, 'png', 6)
    content = path.read_bytes()
    start = content.index(b'eXIf') - 4
    end = start + 12 + int.from_bytes(content[start:start + 4], 'big')
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_greyscale_is_scaled_to_8(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257], [65535, 300, 65535 - 257]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f'deep.{suffix}')
    expected = [[0, 1, 128], [255, 1, 254]]
    assert read_image(tmp_path / f'deep.{suffix}')[..., 1].tolist() == expected


def write_cut(path):
    Image.fromarray(pixels()).save(path)
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize('name, write, message', [
    ('none.png', lambda path: None, 'none.png does not exist'),
    ('folder.png', lambda path: path.mkdir(), 'is a folder, expected a file'),
    ('text.png', lambda path: path.write_text('hello'), 'not in a supported image format'),
    ('cut.png', write_cut, 'damaged or truncated'),
    ('float.tif', lambda path: Image.fromarray(np.ones((2, 2), np.float32)).save(path), 'floating-point'),
    ('long.tif', lambda path: Image.fromarray(np.full((2, 2), 70000, np.int32)).save(path), 'from 70000'),
    ('thin.png', lambda path: Image.new('L', (1, 201)).save(path), 'one side to be at most 200 times the other'),
    ('drawing.png', lambda path: Image.new('RGB', (9, 9)).save(path, 'EPS'), 'not in a supported image format'),
])
def test_an_unreadable_image_is_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'x.png')
    assert image_size(tmp_path / 'x.png') is None
    for read in (read_image, read_label_image):
        with pytest.raises(UserError, match=r'x\.png'):
            read(tmp_path / 'x.png')


def test_folders_are_searched_without_junk_and_the_rest_is_counted(tmp_path):
    names = ['b.png', 'a/c.JPG', 'a/d.txt', 'a/e.TXT', 'f', '.hidden.png', 'a/._c.JPG', '__MACOSX/c.png', 'Thumbs.db']
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ['c.JPG', 'b.png']
    assert skipped_files('x', choose_images(find_files(tmp_path))[1]) == (
        'x: skipped, not images: 2 .txt, 1 without suffix')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no images'):
        list_images(tmp_path / 'empty')
    with pytest.raises(UserError, match='the folder .* does not exist'):
        list_images(tmp_path / 'nowhere')


def test_suffixes_that_phones_and_browsers_write_are_images():
    assert {'.jpg', '.jpe', '.jfif', '.gif', '.webp', '.tif'} <= set(IMAGE_SUFFIXES)
    assert ('.avif' in IMAGE_SUFFIXES) == bool(features.check('avif'))
