"""Pictures of every kind become upright 8-bit RGB, or one line says why not."""
import numpy as np
import pytest
from PIL import Image
from sam_samples import picture, save_picture

from repvit_mm.errors import UserError
from repvit_mm.io.images import list_images
from repvit_mm.sam import read_image


def test_rgb_is_read_as_it_is(tmp_path):
    np.testing.assert_array_equal(read_image(save_picture(tmp_path / 'a.png')), picture())


def test_greyscale_becomes_grey(tmp_path):
    grey = picture()[..., 0]
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'grey.png'), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_greyscale_is_scaled_to_8(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257], [65535, 300, 65535 - 257]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f'deep.{suffix}')
    expected = [[0, 1, 128], [255, 1, 254]]
    assert read_image(tmp_path / f'deep.{suffix}')[..., 1].tolist() == expected


def test_transparent_parts_are_white(tmp_path):
    image = np.zeros((2, 3, 4), np.uint8)
    image[0] = (10, 20, 30, 255)
    image[1] = (10, 20, 30, 0)
    Image.fromarray(image).save(tmp_path / 'alpha.png')
    found = read_image(tmp_path / 'alpha.png')
    assert found[0].tolist() == [[10, 20, 30]] * 3 and (found[1] == 255).all()


@pytest.mark.parametrize('mode', ['LA', 'P', 'CMYK', '1'])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
    Image.fromarray(picture()).convert('L' if mode == 'LA' else 'RGB').convert(mode).save(path)
    found = read_image(path)
    assert found.shape == (60, 80, 3) and found.dtype == np.uint8


def test_orientation_of_the_camera_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture()).save(tmp_path / 'turned.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'turned.png'), np.rot90(picture(), -1))


def write_cut(path):
    save_picture(path)
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize('name, write, message', [
    ('none.png', lambda path: None, 'none.png does not exist'),
    ('folder.png', lambda path: path.mkdir(), 'is a folder, expected a picture'),
    ('text.png', lambda path: path.write_text('hello'), 'not in a picture format'),
    ('cut.png', write_cut, 'damaged or truncated'),
    ('float.tif', lambda path: Image.fromarray(np.ones((2, 2), np.float32)).save(path), 'floating-point'),
    ('long.tif', lambda path: Image.fromarray(np.full((2, 2), 70000, np.int32)).save(path), 'go from 70000'),
])
def test_an_unreadable_picture_is_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def test_folders_are_searched_and_empty_ones_told(tmp_path):
    for name in ('b.png', 'a/c.JPG', 'a/d.txt'):
        save_picture(tmp_path / name) if name.endswith('png') else (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / 'a/c.JPG').touch()
    (tmp_path / 'a/d.txt').touch()
    assert [path.name for path in list_images(tmp_path)] == ['c.JPG', 'b.png']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no picture'):
        list_images(tmp_path / 'empty')
    with pytest.raises(UserError, match='the folder .* does not exist'):
        list_images(tmp_path / 'nowhere')
