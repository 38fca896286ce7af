"""All tools read the same pixels from a file."""
import sys
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
from image_cases import CASES, TURNS, as_grey_16, as_rgb, as_rgba, write
from mmengine.registry import TRANSFORMS, DefaultScope

from repvit_mm import sam
from repvit_mm.engine.mistakes import NamedSamples
from repvit_mm.export import load_images
from repvit_mm.io.images import read_image
from repvit_mm.io.toolbox_files import replace_mmcv_decoder
from repvit_mm.models.running import Run
from repvit_mm.models.sources import Inputs

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
replace_mmcv_decoder()


def through_pipeline(scope, **settings):
    def read(path):
        __import__(scope)
        with DefaultScope.overwrite_default_scope(scope):
            load = TRANSFORMS.build(dict(type='LoadImageFromFile', **settings))
        return NamedSamples(load)(dict(img_path=str(path)))['img'][..., ::-1]
    return read


def through_infer(path):
    class Stop(Exception):
        pass

    def predict(images):
        seen.extend(images)
        raise Stop
    seen = []
    with pytest.raises(Stop):
        Run(Inputs([path], []), path.parent / 'out').start(SimpleNamespace(
            predict=predict, task='', classes=[], most_pixels=1000), {})
    return seen[0]


def through_examples(path):
    sys.path.insert(0, str(EXAMPLES))
    try:
        import pictures
    finally:
        sys.path.remove(str(EXAMPLES))
    metadata = dict(task='segmentation', channels='RGB', mean=0, std=1)
    return np.asarray(pictures.prepare(path, metadata, 8, 8)[0])


READERS = {
    'detection': through_pipeline('mmdet'),
    'segmentation': through_pipeline('mmseg'),
    'classification': through_pipeline('mmpretrain', imdecode_backend='pillow'),
    'drawing': lambda path: mmcv.imread(str(path), channel_order='rgb'),
    'infer': through_infer,
    'SAM': sam.read_image,
    'comparison of exported files': lambda path: load_images(read_image(path).shape[:2], 1, [path])[0],
    'examples': through_examples,
}


@pytest.mark.parametrize('reader', READERS)
def test_every_reader_sees_the_same_pixels(tmp_path, reader):
    files = [write(tmp_path, mode, kind)[0] for mode, kind in CASES]
    files += [write(tmp_path, as_rgb, kind, orientation)[0] for orientation in TURNS
              for kind in ('jpg', 'png', 'webp', 'tif')]
    different = []
    for path in files:
        found, wanted = READERS[reader](path), read_image(path)
        if found.shape != wanted.shape or (found != wanted).any():
            different.append(path.name)
    assert not different


@pytest.mark.parametrize('mode', [as_grey_16, as_rgba])
def test_grey_images_are_those_of_the_same_reader(tmp_path, mode):
    path, _ = write(tmp_path, mode, 'png')
    grey = mmcv.imread(str(path), flag='grayscale')
    red, green, blue = np.moveaxis(read_image(path).astype(float), 2, 0)
    assert np.abs(grey - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1


def test_label_images_keep_their_values(tmp_path):
    path, _ = write(tmp_path, as_grey_16, 'png')
    assert mmcv.imread(str(path), flag='unchanged').dtype == np.uint16
