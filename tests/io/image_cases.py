"""Small images of every mode and format, with the pixels that a reader should give."""
import numpy as np
import pytest
from PIL import Image, features

from repvit_mm.io.images import BACKGROUND

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


def as_transparent_grey_16():
    image, colours = as_grey_16()
    image.info['transparency'] = key = int(np.asarray(image)[2, 3])
    return image, over_background(colours, np.where(np.asarray(image) == key, 0, 255))


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
         as_transparent_grey_16: 'png',
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
