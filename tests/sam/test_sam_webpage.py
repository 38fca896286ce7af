"""The web page: what a visitor's clicks do, and the page itself in a headless browser where there is one."""
import importlib.util
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

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

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')


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


def test_a_click_needs_a_picture(session):
    with pytest.raises(UserError, match='upload an image first'):
        session.click(1, 1, 'Object')


def test_a_picture_is_encoded_once_however_many_clicks_follow(session, picture):
    calls = []
    session._predictor.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    session.upload(str(picture))
    for x in (50, 60, 70):
        session.click(x, 50, 'Object')
    assert len(calls) == session.embeddings == 1
    session.upload(str(picture))
    assert len(calls) == 2


def test_clicks_add_up_until_they_are_cleared(session, picture):
    original = session.upload(str(picture)).copy()
    drawn, text = session.click(50, 50, 'Object')
    assert drawn.shape == original.shape and (drawn != original).any() and 'predicted IoU' in text
    session.click(10, 10, 'Background')
    assert session.prompt.points == ((50, 50), (10, 10)) and session.prompt.labels == (1, 0)
    assert (session.clear() == original).all() and session.prompt.points == ()


def test_two_clicks_give_a_box_whatever_their_order(session, picture):
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


def test_a_bad_picture_is_told_and_the_last_one_is_gone(session, picture, tmp_path):
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
def test_a_visitor_is_told_what_is_wrong_with_a_picture(session, tmp_path, make, message):
    path = tmp_path / 'secret' / 'picture.png'
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError) as error:
        session.upload(str(path))
    assert message in str(error.value) and 'secret' not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec('gradio') is None, reason='gradio is not installed')
def test_each_visitor_has_a_session_and_is_told_what_is_wrong_with_an_upload(session, picture, tmp_path):
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
        with pytest.raises(AppError, match='the image is not in a supported image format'):
            client.predict(handle_file(str(tmp_path / 'text.jpg')), api_name='/upload')
        with pytest.raises(Exception, match='413|size'):
            client.predict(handle_file(str(tmp_path / 'large.png')), api_name='/upload')
    finally:
        page.close()


def test_the_samples_of_the_page_are_there():
    folder = Path(skimage.__file__).with_name('data')
    assert all(read_image(folder / name).shape[2] == 3 for name in SAMPLES)


def missing_for_the_browser() -> str:
    lacking = [name for name in ('gradio', 'selenium') if importlib.util.find_spec(name) is None]
    lacking += [name for name, path in (('chromium', BROWSER), ('chromedriver', DRIVER)) if path is None]
    return f'the page is not tested in a browser: {", ".join(lacking)} not installed' if lacking else ''


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_the_browser()), reason=missing_for_the_browser())
def test_page_in_a_browser_shows_the_mask_of_a_click(picture, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with (tmp_path / 'server.log').open('wb') as log:
        arguments = ('--encoder', 'repvit_m0_6', '--image-size', '64', '--port', str(port))
        server = subprocess.Popen([sys.executable, 'tools/sam_demo.py', *arguments], cwd=ROOT, stdout=log,
                                  stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: urllib.request.urlopen(f'http://127.0.0.1:{port}/').status == 200, 60, server)
        browse(f'http://127.0.0.1:{port}/', picture, tmp_path)
    finally:
        server.terminate()
        server.wait()


def browse(url: str, picture: Path, folder: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
                 '--window-size=1200,1000', f'--user-data-dir={folder}/profile'):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get(url)

        def shown():
            return driver.find_element(By.CSS_SELECTOR, '#image img')

        def status():
            return driver.find_element(By.CSS_SELECTOR, '#status textarea').get_attribute('value')

        def pixels():
            with urllib.request.urlopen(shown().get_attribute('src')) as answer:
                return np.asarray(Image.open(io.BytesIO(answer.read())).convert('RGB'))

        wait_for(lambda: 'random' in driver.find_element(By.CSS_SELECTOR, '#notice').text, 30)
        driver.find_element(By.CSS_SELECTOR, '#image input[type=file]').send_keys(str(picture))
        wait_for(lambda: status() == 'Click on the object.' and shown().is_displayed(), 30)
        original = np.asarray(Image.open(picture))
        np.testing.assert_array_equal(pixels(), original)
        ActionChains(driver).move_to_element(shown()).click().perform()
        wait_for(lambda: 'predicted IoU' in status(), 30)
        wait_for(lambda: (pixels() != original).any(), 30)
        driver.save_screenshot(str(folder / 'page.png'))
        changed = (pixels() != original).any(2)
        # The click was in the middle: a point is drawn there, over the mask.
        assert changed[58:62, 78:82].all()
        assert changed.sum() > 60
        driver.find_element(By.CSS_SELECTOR, '#clear').click()
        wait_for(lambda: status() == '' and (pixels() == original).all(), 30)
    finally:
        driver.quit()


def wait_for(condition, seconds: float, server: subprocess.Popen | None = None) -> None:
    deadline, problem = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        assert server is None or server.poll() is None, 'the server ended'
        try:
            if condition():
                return
        except Exception as error:  # not there yet
            problem = error
        time.sleep(0.2)
    raise AssertionError(f'nothing came within {seconds} seconds') from problem
