"""The page of examples/web in a headless Chromium: what it finds, beside onnxruntime in Python."""
import re
import shutil
from functools import cache
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pictures
import pytest
from browser import Browser, serve
from PIL import Image
from serve import Isolated

from repvit_mm.export import Options, Selection, export_model, load_images
from repvit_mm.export.onnx import open_file
from repvit_mm.export.sam import export_decoder, export_encoder
from repvit_mm.export.sam_predictor import OnnxPredictor
from repvit_mm.io.images import read_image
from repvit_mm.sam import Prompt, build_sam, segment

WEB = Path(__file__).parents[2] / 'examples/web'
CHROMIUM = shutil.which('chromium')
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason='chromium is not installed'),
    pytest.mark.skipif(not (WEB / 'node_modules').exists(), reason='onnxruntime-web is not installed: make check-web')]
SHAPE, BOUND, NUMBER = (64, 96), 5e-5, r'\d+\.\d+'
#: Kind of model -> options of its export.
KINDS = {'classification': Options(), 'segmentation': Options(dynamic_size=True),
         **{kind: Options(selection=Selection()) for kind in ('mask_rcnn', 'rtmdet_ins', 'detr')}}
PAGE = "(await import('./repvit.js')).page"
STATUS = "document.getElementById('status').textContent"
DONE = "/ ms |error/.test(document.getElementById('status').outerHTML)"
LINES = "[...document.querySelectorAll('li')].map(line => line.textContent)"
OUTPUTS = f"""Object.fromEntries(Object.entries({PAGE}.result.outputs).map(
    ([name, {{dims, data}}]) => [name, [dims, Array.from(data, Number)]]))"""
CANVAS = """(({width, height}, context) => Array.from(context.getImageData(0, 0, width, height).data))(
    document.getElementById('canvas'), document.getElementById('canvas').getContext('2d'))"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp('profile'))
    yield browser
    browser.close()


@pytest.fixture(scope='module')
def site():
    with serve(WEB, Isolated) as address:
        yield f'{address}/?engine=wasm'


@pytest.fixture(scope='module')
def export(models, detector, tmp_path_factory):
    """Gives the ONNX file of a kind of model."""
    @cache
    def file(kind):
        path = tmp_path_factory.mktemp(kind) / f'{kind}.onnx'
        model = models(kind) if kind in ('classification', 'segmentation') else detector(kind)
        export_model(model, 'onnx', SHAPE, path, KINDS[kind])
        return open_file(path)
    return file


def numbers(lines):
    return [float(number) for number in re.findall(NUMBER, ' '.join(lines))]


@pytest.fixture(scope='module')
def sam(tmp_path_factory):
    """The ONNX files of a small encoder and decoder."""
    folder, model = tmp_path_factory.mktemp('sam'), build_sam('m0_6', image_size=64)
    export_encoder(model, folder / 'encoder.onnx')
    export_decoder(model, folder / 'decoder.onnx')
    return folder / 'encoder.onnx', folder / 'decoder.onnx'


@pytest.mark.parametrize('kind', KINDS)
def test_page_finds_what_python_finds(kind, export, browser, site, tmp_path, capsys):
    """Also in a larger image: the page scales in Pillow's arithmetic, so the pixels are equal."""
    file = export(kind)
    browser.open(site)
    browser.choose('#models', file.path)
    for size in (SHAPE, (240, 360)):
        shape = (256, 384) if None in file.shape and size != SHAPE else SHAPE
        Image.fromarray(load_images(size, 1)[0]).save(path := tmp_path / f'{size}.png')
        picture, inputs = pictures.prepare(path, file.metadata, *shape)
        expected = file.run(inputs)
        capsys.readouterr()
        pictures.draw(picture, inputs, expected, file.metadata, drawn := tmp_path / 'drawn.png')
        browser.choose('#images', path)
        browser.wait(f'{PAGE}.image?.height == {size[0]} && {DONE}')
        found = {name: np.reshape(values, shape) for name, (shape, values) in browser.evaluate(OUTPUTS).items()}
        assert found.keys() == expected.keys()
        for name, values in expected.items():  # single precision, summed in another order
            np.testing.assert_allclose(found[name], values, rtol=0, atol=BOUND * np.abs(values).max(), err_msg=name)
        lines, printed = browser.evaluate(LINES), capsys.readouterr().out.splitlines()
        names, expected_names = ([re.sub(NUMBER, '', line).split() for line in both] for both in (lines, printed))
        assert names == expected_names
        assert numbers(lines) == pytest.approx(numbers(printed), abs=0.11)  # of which the last digit may be rounded
    # Fonts and lines are others.
    canvas = np.reshape(browser.evaluate(CANVAS), (*size, 4))[..., :3].astype(int)
    assert (np.abs(canvas - np.asarray(Image.open(drawn))).max(2) <= 3).mean() > 0.6


@pytest.mark.parametrize('size', [(50, 60), (150, 200)], ids=['smaller', 'larger'])
def test_clicks_give_the_masks_of_sam(size, sam, browser, site, tmp_path):
    """In an image larger than the encoder's, the mask is that of the scaled image."""
    scale = min(1, 64 / max(size))
    Image.fromarray(load_images(size, 1)[0]).save(path := tmp_path / 'image.png')
    predictor = OnnxPredictor(*sam)
    predictor.set_image(load_images([round(scale * side) for side in size], 1, [path])[0])
    browser.open(site)
    browser.choose('#images', path)
    browser.choose('#models', sam[0])
    browser.wait(f'/add the decoder/.test({STATUS})')
    browser.choose('#models', sam[1])
    browser.wait(DONE)
    left, top = browser.evaluate(
        "(({left, top}) => [left, top])(document.getElementById('canvas').getBoundingClientRect())")
    prompt, shift = Prompt(), 8
    for (x, y), label in (((40, 25), 1), ((5, 10), 0)):
        prompt = Prompt((*prompt.points, (scale * x, scale * y)), (*prompt.labels, label))
        browser.click(left + x, top + y, 0 if label else shift)
        browser.wait(f'{PAGE}.result?.points?.length == {len(prompt.points)}')
        mask, shape, score = browser.evaluate(
            f'(({{mask, shape, score}}) => [[...mask], shape, score])({PAGE}.result)')
        best = segment(predictor, prompt)[0]
        assert score == pytest.approx(best.score, abs=1e-4) and 0.02 < best.mask.mean() < 0.98
        assert (np.reshape(mask, shape) == best.mask).mean() > 0.999


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize('name, change, options', [
    ('alpha.png', lambda image: image.putalpha(image.getchannel(0)) or image, {}),
    ('palette.gif', lambda image: image.quantize(16), {'transparency': 3}),
    ('16_bits.png', lambda image: Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 250), {}),
    *((f'turned_{turn}.jpg', lambda image: image, {'exif': orientation(turn)}) for turn in range(1, 9)),
])
def test_page_reads_an_image_as_training_does(name, change, options, browser, site, tmp_path):
    change(Image.fromarray(load_images((30, 40), 1)[0])).save(tmp_path / name, **options)
    expected = read_image(tmp_path / name)
    browser.open(site)
    browser.choose('#images', tmp_path / name)
    browser.wait(f'{PAGE}.image')
    found = np.reshape(browser.evaluate(f'[...{PAGE}.image.data]'), (*expected.shape[:2], 4))[..., :3]
    # Chromium rounds 16 bits otherwise.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1 if name == '16_bits.png' else 0)


@pytest.mark.parametrize('name, content, message', [
    ('a.onnx', b'hello', 'a.onnx: expected an ONNX file of the exporters of repvit-mm, with their metadata'),
    ('a.onnx', b'\x72\x09\x0a\x04task\x12\x01x', "a.onnx: Can't create a session"),  # metadata, and no graph
    ('a.png', b'hello', 'a.png: The source image could not be decoded.'),
])
def test_a_bad_file_is_one_line(name, content, message, browser, site, tmp_path):
    (tmp_path / name).write_bytes(content)
    browser.open(site)
    browser.choose('#models', tmp_path / name)
    browser.wait(DONE)
    assert browser.evaluate(STATUS).startswith(message)


def test_any_server_serves_the_page_and_the_camera_gives_frames(export, browser):
    with serve(WEB) as address:  # without the headers that threads need
        browser.open(f'{address}/?engine=wasm')
        browser.choose('#models', export('classification').path)
        browser.wait(f'/Choose an image/.test({STATUS})')
        for _ in range(2):
            browser.evaluate("document.getElementById('camera').click()")
            for _ in range(2):
                browser.wait(DONE)
                assert browser.evaluate(STATUS).endswith(' ms (wasm, threads: 1).')
                browser.evaluate(f"{STATUS} = ''")  # until the next frame
            browser.evaluate("document.getElementById('camera').click()")
            assert browser.evaluate(f'{PAGE}.video') is None


def test_nothing_leaves_the_browser(browser, site):
    class Other(SimpleHTTPRequestHandler):
        asked = []

        def do_GET(self):
            self.asked.append(self.path)
            super().do_GET()

    with serve(WEB, Other) as address:
        browser.open(site)
        fetched = browser.evaluate(f"fetch('{address}', {{mode: 'no-cors'}}).then(() => 'sent', () => 'refused')")
        browser.evaluate(f"new Promise(done => Object.assign(new Image(), {{onerror: done, src: '{address}'}}))")
    assert fetched == 'refused'
    assert not Other.asked
