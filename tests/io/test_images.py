"""Images of every mode and format become upright 8-bit RGB, the same for every reader; or one line says why not."""
import numpy as np
import pytest
from PIL import Image, features

from repvit_mm.errors import UserError
from repvit_mm.io.files import find_files
from repvit_mm.io.image_files import IMAGE_SUFFIXES, choose_images, list_images, skipped_files
from repvit_mm.io.images import BACKGROUND, image_size, read_image

WIDTH, HEIGHT = 22, 14
#: Orientation -> how NumPy brings the stored pixels upright.
TURNS = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1),
         6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90}


def pixels(channels=3):
    """Smooth, so that lossy formats keep it."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    values = [40 + 150 * x, 200 - 120 * y, 60 + 90 * x * y, 255 * (x > 0.5)]
    return np.stack(values[:channels], 2).round().astype(np.uint8)


def distance(one, other):
    return np.abs(one.astype(float) - other).max()


def over_background(colour, alpha):
    share = alpha[..., None] / 255
    return colour * share + np.array(BACKGROUND) * (1 - share)


def as_rgb():
    return Image.fromarray(pixels()), pixels()


def as_grey():
    grey = pixels()[..., 0]
    return Image.fromarray(grey), np.repeat(grey[..., None], 3, 2)


def as_grey_16():
    grey = pixels()[..., 0].astype(np.uint16) * 257
    return Image.fromarray(grey), as_grey()[1]


def as_rgba():
    return Image.fromarray(pixels(4)), over_background(pixels(), pixels(4)[..., 3])


def as_grey_alpha():
    image = Image.fromarray(np.dstack([pixels()[..., 0], pixels(4)[..., 3]]))
    return image, over_background(as_grey()[1], pixels(4)[..., 3])


def as_palette():
    image = Image.fromarray(pixels()).quantize(16)
    return image, np.array(image.getpalette()[:48]).reshape(-1, 3)[np.asarray(image)]


def as_transparent_palette():
    image, colours = as_palette()
    image.info['transparency'] = 3
    return image, over_background(colours, np.where(np.asarray(image) == 3, 0, 255))


def as_transparent_rgb():
    image, colours = as_rgb()
    image.info['transparency'] = tuple(pixels()[2, 3].tolist())
    return image, over_background(colours, np.where((colours == pixels()[2, 3]).all(2), 0, 255))


def as_cmyk():
    return Image.fromarray(pixels()).convert('CMYK'), pixels()


def as_bits():
    bits = pixels()[..., 0] > 120
    return Image.fromarray(bits), np.repeat(bits[..., None] * 255, 3, 2)


#: Mode -> formats that hold it.
MODES = {as_rgb: 'png jpg webp tif bmp ppm avif', as_grey: 'png jpg tif bmp pgm gif', as_grey_16: 'png tif pgm',
         as_rgba: 'png webp tif avif', as_grey_alpha: 'png', as_palette: 'png gif bmp tif',
         as_transparent_palette: 'png gif', as_transparent_rgb: 'png', as_cmyk: 'jpg tif', as_bits: 'png tif pbm'}
LOSSY = {'jpg', 'avif'}
SETTINGS = {'jpg': dict(quality=95, subsampling=0), 'webp': dict(lossless=True, exact=True), 'avif': dict(quality=95)}
CASES = [(mode, kind) for mode, kinds in MODES.items() for kind in kinds.split()]


def write(folder, mode, kind, orientation=1):
    """A file, and its upright pixels."""
    if kind == 'avif' and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    image, expected = mode()
    path = folder / f'{mode.__name__}_{orientation}.{kind}'
    options = {'transparency': image.info['transparency']} if 'transparency' in image.info else {}
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options['exif'] = exif
    image.save(path, **options, **SETTINGS.get(kind, {}))
    return path, TURNS[orientation](expected)


@pytest.mark.parametrize('mode, kind', CASES)
def test_every_mode_becomes_rgb(tmp_path, mode, kind):
    path, expected = write(tmp_path, mode, kind)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
    assert distance(found, expected) <= (20 if kind in LOSSY else 1)
    np.testing.assert_array_equal(read_image(path.read_bytes()), found)


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


def test_folders_are_searched_without_junk_and_the_rest_is_counted(tmp_path):
    names = ['b.png', 'a/c.JPG', 'a/d.txt', 'a/e.TXT', 'f', '.hidden.png', 'a/._c.JPG', '__MACOSX/c.png', 'Thumbs.db']
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ['c.JPG', 'b.png']
    assert skipped_files('x', choose_images(find_files(tmp_path))[1]) == (
        'x: 3 files are no images and are skipped: 2 .txt, 1 without suffix')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no images'):
        list_images(tmp_path / 'empty')
    with pytest.raises(UserError, match='the folder .* does not exist'):
        list_images(tmp_path / 'nowhere')


def test_suffixes_that_phones_and_browsers_write_are_images():
    assert {'.jpg', '.jpe', '.jfif', '.gif', '.webp', '.tif'} <= set(IMAGE_SUFFIXES)
    assert ('.avif' in IMAGE_SUFFIXES) == bool(features.check('avif'))
