"""Inputs of a prediction: image files, folders, patterns, videos, cameras; and videos as its output."""
import glob
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log

from ..errors import UserError
from ..io.files import atomic_write, check_regular, find_files, is_junk
from ..io.image_files import IMAGE_SUFFIXES, choose_images, skipped_files

#: Suffixes of the files that count as videos.
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
CAMERA = 'camera:'
#: Frames in a second, for cameras and files that do not say; and the most of a file that is written.
RATE, LARGEST_RATE = 25., 60.


class Inputs(NamedTuple):
    """The inputs of a model.

    Attributes:
        images: Files.
        videos: Files.
        camera: Number of a camera, or None.
    """

    images: list[Path]
    videos: list[Path]
    camera: int | None = None

    def names(self) -> dict[Path, Path]:
        """File -> its path below the folder that all of them have in common, unique among the results."""
        files = [*self.images, *self.videos]
        places = {file: Path(os.path.abspath(file)) for file in files}  # without '..', which would lead out of a folder
        common = os.path.commonpath([place.parent for place in places.values()]) if files else ''
        return {file: place.relative_to(common) for file, place in places.items()}


def find_inputs(words: Sequence[str]) -> Inputs:
    """Find the images and videos that the words of a command name.

    Args:
        words: Each a file, a folder with images and videos, a pattern such as ``'photos/**/*.jpg'``, or
            ``camera:NUMBER`` alone.

    Raises:
        UserError: If there is no such file, or a folder holds no images and videos.
    """
    if any(word.startswith(CAMERA) for word in words):
        number = words[0].removeprefix(CAMERA)
        if len(words) > 1 or not number.isdecimal():
            raise UserError(f'{" ".join(words)}: a camera is given alone, as {CAMERA}0')
        return Inputs([], [], int(number))
    files = {os.path.abspath(file): file for word in words for file in _files_of(word)}.values()  # each once
    return Inputs([file for file in files if file.suffix.lower() not in VIDEOS],
                  [file for file in files if file.suffix.lower() in VIDEOS])


def _files_of(word: str) -> list[Path]:
    path, deeper = Path(word).expanduser(), ''
    if path.is_dir():
        found, where = sorted(path.iterdir()), f'{path} holds'
        inside = choose_images((file for file in find_files(path) if file.parent != path), VIDEOS)[0]
        deeper = f"images and videos in its folders: {len(inside)}; '{path}/**/*' takes all" if inside else ''
    elif not path.exists() and glob.has_magic(word):
        found, where = sorted(map(Path, glob.glob(str(path), recursive=True))), f'{word} matches'
    elif path.exists():
        return [path]
    else:
        raise UserError(f'there is no image, video or folder {word}')
    found = [file for file in found if file.is_file() and not is_junk(file.name)]
    files, others = choose_images(found, VIDEOS)
    if not files:
        raise UserError(f'{where} no image ({", ".join(IMAGE_SUFFIXES)}) and no video ({", ".join(VIDEOS)})'
                        + f'; {deeper}' * bool(deeper))
    if deeper:
        print_log(f'{path}: skipped {deeper}', 'current', logging.WARNING)
    if others:
        print_log(skipped_files(word, others), 'current', logging.WARNING)
    return files


class Frames:
    """The frames of a video or camera, each RGB, uint8 (H, W, 3), with its time in seconds.

    Args:
        source: A file, or the number of a camera.

    Attributes:
        rate: Frames in a second; of a file whose frames have different durations, as many as the shortest one needs.
        times: Time of each frame of a file in seconds, as the container states it; empty for a camera.
        expected: The number of frames that a file claims to have; 0 if it is unknown.

    Raises:
        UserError: If it cannot be opened.
    """

    def __init__(self, source: Path | int):
        self._capture = _open(source)
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or RATE
        self.expected, self.times = 0, []
        if isinstance(source, Path):
            self.expected = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            while self._capture.grab():
                self.times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            self._capture = _open(source)
            gaps = np.diff(self.times)
            if len(gaps) and gaps.min() <= 0:  # not stated
                self.times = [i / self.rate for i in range(len(self.times))]
            elif len(gaps) and gaps.max() - gaps.min() > 0.1 / self.rate:
                self.rate = min(1 / gaps.min(), LARGEST_RATE)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        start, count = time.monotonic(), 0
        while (read := self._capture.read())[0]:
            seconds = self.times[count] - self.times[0] if self.times else time.monotonic() - start
            yield seconds, cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            count += 1

    def close(self) -> None:
        """Release the file or camera."""
        self._capture.release()


def _open(source: Path | int) -> cv2.VideoCapture:
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # the error says it in one line
    logs = getattr(cv2.utils, 'logging', cv2)  # OpenCV 4 has its functions at the top
    level = logs.getLogLevel()
    logs.setLogLevel(0)
    try:
        if isinstance(source, Path):
            check_regular(source)
        capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    finally:
        logs.setLogLevel(level)
    if not capture.isOpened():
        raise UserError(f'there is no camera {source}, or another program uses it' if isinstance(source, int)
                        else f'{source} cannot be decoded as a video')
    return capture


class VideoWriter:
    """Writes frames into an MP4, which is opened with the first one.

    Args:
        path: The file.
        rate: Frames in a second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate, self.count, self._writer, self._last = path, rate, 0, None, None

    def write(self, frame: np.ndarray, seconds: float) -> None:
        """Append a frame, RGB, uint8 (H, W, 3), at its time; the one before is repeated until then."""
        if self._writer is None:
            size = frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*'mp4v'), self.rate, size)
        while self._last is not None and self.count < round(seconds * self.rate):
            self._append(self._last)
        self._last = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        self._append(self._last)

    def _append(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self.count += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: If it does not hold every frame, which OpenCV itself does not report.
        """
        if self._writer is not None:
            self._writer.release()
            written = cv2.VideoCapture(str(self.path)).get(cv2.CAP_PROP_FRAME_COUNT)
            if written != self.count:
                raise OSError(f'{written:g} of {self.count} frames arrived; is the disk full?')


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Yield a writer for a video, which is put in place when the block succeeds and has written a frame."""
    with atomic_write(path) as part:
        writer = VideoWriter(part, rate)
        yield writer
        writer.close()
