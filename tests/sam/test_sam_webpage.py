"""The web page: what a visitor's clicks do, and the page itself."""
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import bad_files
import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from repvit_mm.errors import UserError
from repvit_mm.io.images import read_image
from repvit_mm.sam import build_sam
from repvit_mm.sam.webpage import LARGEST_UPLOAD, SAMPLES, Session, build_page, serve


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'picture.png'
    image = np.full((120, 160, 3), 90, np.uint8)
    image[30:90, 40:110] = (200, 60, 30)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def session():
    torch.manual_seed(0)
    return Session(build_sam('m0_6', image_size=64))


def test_a_click_needs_an_image(session):
    with pytest.raises(UserError, match='upload an image first'):
        session.click(1, 1, 'Object')


def test_an_image_is_encoded_once_for_any_number_of_clicks(session, picture):
    calls = []
    session._predictor.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    session.upload(str(picture))
    for x in (50, 60, 70):
        session.click(x, 50, 'Object')
    assert len(calls) == 1
    session.upload(str(picture))
    assert len(calls) == 2


def test_clicks_add_up_until_they_are_cleared(session, picture):
    original = session.upload(str(picture)).copy()
    drawn, text = session.click(50, 50, 'Object')
    assert drawn.shape == original.shape and (drawn != original).any() and 'predicted IoU' in text
    session.click(10, 10, 'Background')
    assert session.prompt.points == ((50, 50), (10, 10)) and session.prompt.labels == (1, 0)
    assert (session.clear() == original).all() and session.prompt.points == ()


def test_two_clicks_give_a_box_in_any_order(session, picture):
    session.upload(str(picture))
    _, text = session.click(110, 90, 'Box')
    assert 'opposite corner' in text and session.prompt.box is None
    session.click(40, 30, 'Box')
    assert session.prompt.box == (40, 30, 110, 90)
    session.clear()
    session.click(110, 90, 'Box')
    session.click(50, 50, 'Object')  # gives the first corner up
    _, text = session.click(40, 30, 'Box')
    assert 'opposite corner' in text and session.prompt == (((50, 50),), (1,), None)


def test_a_bad_image_is_reported_and_the_last_one_is_removed(session, picture, tmp_path):
    session.upload(str(picture))
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(UserError, match='not in a supported image format'):
        session.upload(str(tmp_path / 'text.png'))
    with pytest.raises(UserError, match='upload an image first'):
        session.click(1, 1, 'Object')


@pytest.mark.parametrize(('make', 'message'), [
    (lambda path: path.write_text('hello'), 'the image is not in a supported image format'),
    (lambda path: path.write_bytes(b''), 'the image is not in a supported image format'),
    (lambda path: path.write_bytes(bytes(21 << 20)), 'the image has more than 20 MB'),
    (lambda path: bad_files.png_header(path, 65000, 65000), 'could be decompression bomb'),
    (lambda path: bad_files.png_header(path, 8000, 8000), '8000 x 8000, expected at most 40,000,000'),
    (lambda path: bad_files.picture(path, 3000, 1), '3000 x 1, expected one side'),
    (lambda path: bad_files.png_header(path, 80, 80), 'the image cannot be read'),
])
def test_a_visitor_sees_why_an_image_is_rejected(session, tmp_path, make, message):
    path = tmp_path / 'secret' / 'picture.png'
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError) as error:
        session.upload(str(path))
    assert message in str(error.value) and 'secret' not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec('gradio') is None, reason='gradio is not installed')
def test_each_visitor_has_a_session_and_sees_why_an_upload_is_rejected(session, picture, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError
    (tmp_path / 'text.jpg').write_text('hello')
    (tmp_path / 'large.png').write_bytes(bytes(LARGEST_UPLOAD + 1))
    page = build_page(session._predictor.model)
    _, url, _ = serve(page, '127.0.0.1', None, prevent_thread_lock=True, quiet=True)
    try:
        client, other = Client(url, verbose=False), Client(url, verbose=False)
        shown, text = client.predict(handle_file(str(picture)), api_name='/upload')
        assert text == 'Click on the object.'
        original = np.asarray(Image.open(picture))
        np.testing.assert_array_equal(np.asarray(Image.open(shown).convert('RGB')), original)
        cleared, text = client.predict(api_name='/clear')
        assert text == '' and (np.asarray(Image.open(cleared).convert('RGB')) == original).all()
        assert other.predict(api_name='/clear')[0] is None
        select = next(event for event in page.fns.values() if any(name == 'select' for _, name in event.targets))
        session.upload(str(picture))
        shown, text = select.fn('Object', session, SimpleNamespace(index=(50, 50)))
        assert (shown != original).any() and 'predicted IoU' in text
        with pytest.raises(AppError, match='the image is not in a supported image format'):
            client.predict(handle_file(str(tmp_path / 'text.jpg')), api_name='/upload')
        with pytest.raises(Exception, match='413|size'):
            client.predict(handle_file(str(tmp_path / 'large.png')), api_name='/upload')
    finally:
        page.close()


def test_the_samples_of_the_page_are_there():
    folder = Path(skimage.__file__).with_name('data')
    assert all(read_image(folder / name).shape[2] == 3 for name in SAMPLES)
