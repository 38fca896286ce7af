"""Where pictures come from: files, folders, patterns, videos, cameras; and where videos go."""
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.logging import print_log

from ..errors import UserError
from ..io.files import atomic_write, check_regular, is_junk
from ..io.image_files import IMAGE_SUFFIXES, choose_images, skipped_files

#: Suffixes of the files that count as videos.
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
CAMERA = 'camera:'
#: Frames in a second, for cameras and files that do not say.
RATE = 25.


class Inputs(NamedTuple):
    """What to run a model on.

    Attributes:
        pictures: Files.
        videos: Files.
        camera: Number of a camera, or None.
    """

    pictures: list[Path]
    videos: list[Path]
    camera: int | None = None

    def names(self) -> dict[Path, Path]:
        """File -> its path below the folder that all of them have in common, unique among the results."""
        files = [*self.pictures, *self.videos]
        places = {file: Path(os.path.abspath(file)) for file in files}  # without '..', which would lead out of a folder
        common = os.path.commonpath([place.parent for place in places.values()]) if files else ''
        return {file: place.relative_to(common) for file, place in places.items()}


def find_inputs(words: Sequence[str]) -> Inputs:
    """Find the pictures and videos that the words of a command name.

    Args:
        words: Each a file, a folder, whose pictures and videos are taken, a pattern such as ``'photos/**/*.jpg'``, or
            ``camera:NUMBER`` alone.

    Raises:
        UserError: If there is no such file, or nothing to use in a folder.
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
    path = Path(word).expanduser()
    if path.is_dir():
        found, where = sorted(path.iterdir()), f'{path} holds'
    elif not path.exists() and glob.has_magic(word):
        found, where = sorted(map(Path, glob.glob(str(path), recursive=True))), f'{word} matches'
    elif path.exists():
        return [path]
    else:
        raise UserError(f'there is no picture, video or folder {word}')
    found = [file for file in found if file.is_file() and not is_junk(file.name)]
    files, others = choose_images(found, VIDEOS)
    if not files:
        raise UserError(f'{where} no image ({", ".join(IMAGE_SUFFIXES)}) and no video ({", ".join(VIDEOS)})')
    if others:
        print_log(skipped_files(word, others), 'current', logging.WARNING)
    return files


class Frames:
    """The frames of a video or camera, RGB, uint8 (H, W, 3).

    Args:
        source: A file, or the number of a camera.

    Attributes:
        rate: Frames in a second.
        expected: The number of frames that a file claims to have; 0 if that is not known.

    Raises:
        UserError: If it cannot be opened.
    """

    def __init__(self, source: Path | int):
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # the error says it in one line
        logging = getattr(cv2.utils, 'logging', cv2)  # OpenCV 4 has its functions at the top
        level = logging.getLogLevel()
        logging.setLogLevel(0)
        try:
            if isinstance(source, Path):
                check_regular(source)
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        finally:
            logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise UserError(f'there is no camera {source}, or another program uses it' if isinstance(source, int)
                            else f'{source} cannot be decoded as a video')
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or RATE
        self.expected = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))) if isinstance(source, Path) else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Release the file or camera."""
        self._capture.release()


class VideoWriter:
    """Writes frames into an MP4; it is opened with the first one.

    Args:
        path: The file.
        rate: Frames in a second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate, self.count, self._writer = path, rate, 0, None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, RGB, uint8 (H, W, 3)."""
        if self._writer is None:
            size = frame.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*'mp4v'), self.rate, size)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: If it does not hold every frame; OpenCV itself does not say so.
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
