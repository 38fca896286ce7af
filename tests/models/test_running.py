"""Inputs and outputs around any model; a stand-in predicts the mean of each image."""
import json
import re
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from repvit_mm.errors import UserError
from repvit_mm.models import sources
from repvit_mm.models.predicting import Prediction
from repvit_mm.models.running import Run
from repvit_mm.models.sources import find_inputs


class Mean:
    """Predicts the mean of an image, and draws a white one."""

    task, classes, most_pixels = 'detection', ('thing',), 2000

    def __init__(self):
        self.batches = []

    def predict(self, images):
        self.batches.append(len(images))
        return [Prediction({'mean': float(image.mean())}) for image in images]

    def draw(self, image, prediction, is_frame=False):
        return np.full_like(image, 255)

    def summary(self, values):
        return 'a mean'


def save(path, value, size=(24, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (value,) * 3).save(path)
    return path


def save_video(path, values, size=(32, 24), codec='MJPG', noise=1):
    writer, random = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, size), np.random.default_rng(0)
    for value in values:
        writer.write(random.integers(value, value + noise, (size[1], size[0], 3), np.uint8))
    writer.release()
    return path


def run(words, out, fails=False, **settings):
    job, model = Run(find_inputs([str(word) for word in words]), out, **settings), Mean()
    with pytest.raises(UserError, match='could not be decoded') if fails else nullcontext():
        job.start(model, {})
    return job, model, json.loads((Path(out) / 'predictions.json').read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(['b.png', 'a.JPG', 'deep/c.png']):
        save(tmp_path / 'in' / name, 10 * number)
    (tmp_path / 'in/notes.txt').write_text('hello')
    (tmp_path / 'empty').mkdir()
    save(tmp_path / 'up/in/d.png', 1)
    return tmp_path


@pytest.mark.parametrize(('words', 'names'), [
    (['in'], ['a.JPG', 'b.png']), (['in/b.png', 'in'], ['b.png', 'a.JPG']), (['in/*.png'], ['b.png']),
    (['in/**/*.png'], ['b.png', 'deep/c.png']), (['in/deep/c.png', 'in/b.png'], ['deep/c.png', 'b.png']),
    (['in/deep/../b.png', 'in/deep/c.png', 'in/b.png'], ['b.png', 'deep/c.png'])])
def test_images_keep_their_names_below_the_common_folder(folder, words, names):
    assert [str(name) for name in find_inputs(words).names().values()] == names


def test_images_in_folders_of_a_folder_are_counted(folder, monkeypatch):
    said = []
    monkeypatch.setattr(sources, 'print_log', lambda line, *_: said.append(line))
    assert len(find_inputs(['in']).images) == 2
    assert said[0] == "in: skipped images and videos in its folders: 1; 'in/**/*' takes all"
    assert len(find_inputs(['in/**/*']).images) == 3


@pytest.mark.parametrize(('words', 'message'), [
    (['no.jpg'], 'there is no image, video or folder no.jpg'), (['empty'], 'empty holds no image'),
    (['up'], r"up holds no image .*; images and videos in its folders: 1; 'up/\*\*/\*' takes all"),
    (['in/*.txt'], r'in/\*.txt matches no image'), (['camera:0', 'in'], 'a camera is given alone'),
    (['in', 'camera:0'], 'a camera is given alone'), (['camera:front'], 'as camera:0')])
def test_inputs_that_are_not_there(folder, words, message):
    with pytest.raises(UserError, match=message):
        find_inputs(words)


@pytest.mark.parametrize(('out', 'message'), [
    ('in', 'the drawing would overwrite in/a.JPG'), ('in/b.png', 'File exists'), ('in/b.png/x', 'cannot be created'),
    ('data', r'--out data holds labels/b\.png, but no predictions\.json of an earlier run; choose another folder')])
def test_results_replace_no_file_of_the_user(folder, out, message):
    save(folder / 'data/labels/b.png', 1)
    with pytest.raises(UserError, match=message):
        Run(find_inputs(['in']), out)


def test_nothing_is_left_where_no_model_is_found_after_the_check(folder):
    Run(find_inputs(['in']), 'new/out')
    assert not Path('new').exists()


def test_images_are_drawn_in_batches(folder):
    job, model, results = run(['in', 'in/deep'], 'out', batch_size=2)
    assert (job.failures, model.batches) == (0, [2, 1])
    assert [(Path(found['file']).name, found['mean']) for found in results['pictures']] == [
        ('a.JPG', 10), ('b.png', 0), ('c.png', 20)]
    assert (results['pictures'][0]['width'], results['pictures'][0]['height']) == (24, 16)
    for found in results['pictures']:
        with Image.open(found['drawing']) as drawing:
            assert drawing.size == (24, 16) and drawing.getpixel((5, 5)) == (255, 255, 255)
    assert sorted(path.name for path in Path('out').rglob('*.*')) == ['a.JPG', 'b.png', 'c.png', 'predictions.json']


def test_files_that_cannot_be_decoded_are_named_and_the_others_go_on(folder, capfd):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    noise.save('in/cut.png')
    save(Path('in/large.png'), 9, (100, 30))
    Path('in/cut.png').write_bytes(Path('in/cut.png').read_bytes()[:2000])
    Path('in/text.mp4').write_text('hello')
    save_video(folder / 'in/cut.mp4', [9] * 20, codec='mp4v')
    Path('in/cut.mp4').write_bytes(Path('in/cut.mp4').read_bytes()[:-600])  # where its index is
    job, _, results = run(['in'], 'out', fails=True, batch_size=3)
    assert job.failures == 4
    broken = [found for found in results['pictures'] + results['videos'] if 'error' in found]
    assert [found['file'] for found in broken] == [
        'in/cut.png', 'in/large.png', 'in/cut.mp4', 'in/text.mp4']
    assert 'truncated' in broken[0]['error'] and 'at most 2,000 pixels; scale it down' in broken[1]['error']
    assert 'cannot be decoded as a video' in broken[2]['error']
    assert capfd.readouterr().err.count('skipped: ') == 4
    assert sorted(path.name for path in Path('out').iterdir()) == ['a.JPG', 'b.png', 'predictions.json']
    run(['in/cut.png'], 'alone', fails=True)


def test_video_is_drawn_frame_by_frame(folder):
    save_video(folder / 'clip.avi', [0, 50, 100, 150, 200])
    _, model, results = run(['clip.avi'], 'out', batch_size=2, max_frames=3)
    found, = results['videos']
    assert model.batches == [2, 1]
    np.testing.assert_allclose([frame['mean'] for frame in found['frames']], [0, 50, 100], atol=3)
    assert [frame['seconds'] for frame in found['frames']] == [0, 0.1, 0.2]
    drawn = cv2.VideoCapture(found['drawing'])
    assert [drawn.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH)] == [
        3, 10, 32]
    assert drawn.read()[1].min() > 245


def test_a_video_of_variable_frame_rate_keeps_its_times(folder):
    frames = [Image.new('RGB', (32, 24), (value,) * 3) for value in (0, 50, 100, 150)]
    frames[0].save('clip.gif', save_all=True, append_images=frames[1:], duration=[100, 500, 100, 900])
    Path('clip.gif').rename('clip.mp4')  # whose container states the time of each frame
    _, _, results = run(['clip.mp4'], 'out', batch_size=3)
    found, = results['videos']
    assert [frame['seconds'] for frame in found['frames']] == pytest.approx([0, 0.1, 0.6, 0.7], abs=0.011)
    drawn = cv2.VideoCapture(found['drawing'])
    seconds = (drawn.get(cv2.CAP_PROP_FRAME_COUNT) - 1) / drawn.get(cv2.CAP_PROP_FPS)
    assert seconds == pytest.approx(0.7, abs=0.06) and found['frames_per_second'] == pytest.approx(10, abs=1)


def test_drawings_of_equal_names_do_not_overwrite_each_other(folder):
    for number, name in enumerate(['x/a.jpg', 'x/a.png', 'y/a.png', 'y/a.gif']):
        save(folder / name, 10 * number)
    save_video(folder / 'x/a.avi', [0])
    _, _, results = run(['x', 'y'], 'out')
    drawings = [found['drawing'] for found in results['pictures'] + results['videos']]
    assert sorted(drawings) == ['out/x/a.avi.mp4', 'out/x/a.jpg', 'out/x/a.png', 'out/y/a.gif.png', 'out/y/a.png']
    assert all(Path(drawing).is_file() for drawing in drawings)


def test_a_video_that_ends_early_keeps_its_frames(folder):
    path = save_video(folder / 'clip.avi', range(20), size=(160, 120), noise=200)
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 6 // 10])
    job, _, results = run(['clip.avi'], 'out', fails=True)
    found, = results['videos']
    assert job.failures == 1 and re.search(r'ends after \d+ of 20 frames', found['error'])
    assert 5 <= len(found['frames']) < 18


class Camera:
    """Three frames, then Ctrl-C."""

    def __init__(self, number):
        self.number, self.frames = number, 3

    def isOpened(self):
        return self.number == 0

    def get(self, _):
        return 0.

    def read(self):
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        return True, np.full((24, 32, 3), 7, np.uint8)

    def release(self):
        pass


@pytest.fixture
def camera(monkeypatch):
    real = cv2.VideoCapture
    monkeypatch.setattr(sources.cv2, 'VideoCapture', lambda source: Camera(source) if isinstance(source, int)
                        else real(source))


def test_camera_ends_with_ctrl_c_and_its_results_are_complete(folder, camera):
    _, _, results = run(['camera:0'], 'out')
    found, = results['videos']
    assert [frame['mean'] for frame in found['frames']] == [7, 7, 7]
    assert cv2.VideoCapture('out/camera_0.mp4').get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_no_camera(folder, camera):
    with pytest.raises(UserError, match='there is no camera 4'):
        run(['camera:4'], 'out')
    assert not Path('out').exists()


def test_ctrl_c_during_a_video_leaves_nothing_half_written(folder, monkeypatch):
    save_video(folder / 'clip.avi', range(4))
    def interrupted(self, image, prediction, is_frame=False):
        if is_frame:
            raise KeyboardInterrupt
        return image
    monkeypatch.setattr(Mean, 'draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(['in/b.png', 'clip.avi'], 'out')
    assert sorted(path.name for path in Path('out').rglob('*') if path.is_file()) == ['b.png', 'predictions.json']
    assert len(json.loads(Path('out/predictions.json').read_text())['pictures']) == 1
    run(['in/b.png'], 'out')  # again, into the same folder


def test_ctrl_c_within_a_batch_keeps_what_is_drawn(folder, monkeypatch):
    draw, calls = Mean.draw, iter(range(1))

    def interrupted(self, image, prediction):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return draw(self, image, prediction)
    monkeypatch.setattr(Mean, 'draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(['in'], 'out', batch_size=2)
    found, = json.loads(Path('out/predictions.json').read_text())['pictures']
    assert Path(found['file']).name == 'a.JPG'
    assert sorted(path.name for path in Path('out').iterdir()) == ['a.JPG', 'predictions.json']
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    run(['in'], 'out')


def test_a_video_that_did_not_arrive_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.VideoWriter, 'write', lambda self, *_: setattr(self, 'count', self.count + 1))
    with pytest.raises(UserError, match=r'x\.mp4 cannot be written'), sources.write_video(tmp_path / 'x.mp4', 5) as v:
        v.write(np.zeros((8, 8, 3), np.uint8), 0.)
    assert not list(tmp_path.iterdir())


