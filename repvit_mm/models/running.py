"""Run a model on all inputs, and write drawings and results into a folder."""
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from ..errors import ConfigError, UserError
from ..io.files import atomic_write, check_folder, make_folder, write_json
from ..io.images import read_image
from .predicting import Prediction, Predictor
from .sources import Frames, Inputs, write_video

#: The file with all results.
RESULTS = 'predictions.json'
#: The folder with label maps.
LABELS = 'labels'
#: Suffixes of images whose drawings have the same format; others become PNG.
_WRITTEN = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


class Run:
    """A run over all inputs. The folder of its results is checked before a model is loaded.

    An image or video that cannot be decoded is reported, and is an error after the others have their results.

    Args:
        inputs: From :func:`find_inputs`.
        out: Folder of the results; made if needed.
        batch_size: Images or frames that the model gets at a time.
        max_frames: Number of frames of a video or camera to read; by default all.

    Attributes:
        failures: The number of files that could not be decoded.

    Raises:
        UserError: If the folder cannot be written or holds files that are not from an earlier run, or a drawing would
            overwrite its image.
    """

    def __init__(self, inputs: Inputs, out: str | Path, batch_size: int = 1, max_frames: int | None = None):
        self.inputs, self.out = inputs, check_folder(out, RESULTS, '--out')
        self.batch_size, self.max_frames = batch_size, max_frames
        self.failures, self.console = 0, Console(highlight=False, soft_wrap=True)
        self.drawings = {file: self.out / self._drawing_of(file, name) for file, name in inputs.names().items()}
        files = {file.resolve() for file in self.drawings}
        for drawing in self.drawings.values():
            if drawing.resolve() in files:
                raise ConfigError(f'--out {out}: the drawing would overwrite {drawing}; choose another folder')
        file = next((path for path in self.out.rglob('[!.]*') if path.is_file()), None)
        if file is not None and not (self.out / RESULTS).exists():
            raise ConfigError(f'--out {out} holds {file.relative_to(self.out)}, but no {RESULTS} of an earlier run; '
                              'choose another folder')

    def start(self, predictor: Predictor, entries: Mapping[str, Any]) -> None:
        """Predict, draw and write.

        Args:
            predictor: The model.
            entries: Further entries of the results.

        Raises:
            UserError: If results cannot be written; or, after all inputs, if files could not be decoded.
        """
        results = {**entries, 'task': predictor.task, 'classes': predictor.classes, 'pictures': [], 'videos': []}
        images, videos = self.inputs.images, self.inputs.videos
        try:
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task('images', total=len(images), visible=bool(images))
                for start in range(0, len(images), self.batch_size):
                    batch = images[start:start + self.batch_size]
                    self._images(batch, predictor, results['pictures'])
                    progress.advance(task, len(batch))
                for video in videos:
                    results['videos'].append(self._video(video, self.drawings[video], predictor, progress))
                if self.inputs.camera is not None:
                    drawing = self.out / f'camera_{self.inputs.camera}.mp4'
                    results['videos'].append(self._video(self.inputs.camera, drawing, predictor, progress))
        finally:  # also after Ctrl-C, for the drawings that exist
            if results['pictures'] or results['videos']:
                write_json(make_folder(self.out, '--out') / RESULTS, results)
        self.console.print(f'wrote {self.out / RESULTS} and the drawings', markup=False)
        if self.failures:
            raise UserError(f'{self.failures} of {len(images) + len(results["videos"])} files could not be decoded to '
                            'their end, see above')

    def _drawing_of(self, file: Path, name: Path) -> Path:
        """Path below ``out``. It keeps folders and suffixes, since there may be ``a.jpg`` and ``a.png``."""
        kept, added = (('.mp4',), '.mp4') if file in self.inputs.videos else (_WRITTEN, '.png')
        return name if name.suffix.lower() in kept else name.with_name(f'{name.name}{added}')

    def _report(self, file: Path, error: Exception) -> dict[str, Any]:
        """Write a line for a file that cannot be decoded to stderr, and return its result."""
        self.failures += 1
        Console(stderr=True, highlight=False, soft_wrap=True).print(f'skipped: {error}', style='yellow', markup=False)
        return {'file': str(file), 'error': str(error)}

    def _images(self, files: Sequence[Path], predictor: Predictor, results: list[dict[str, Any]]) -> None:
        images, failed = {}, {}
        for file in files:
            try:
                images[file] = read_image(file, predictor.most_pixels)
            except UserError as error:
                failed[file] = self._report(file, error)
        predictions = iter(predictor.predict(list(images.values())) if images else [])
        for file in files:
            results.append(failed[file] if file in failed else
                           self._image(file, images[file], predictor, next(predictions)))

    def _image(self, file: Path, image: np.ndarray, predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
        drawing = self.drawings[file]
        result = {'file': str(file), 'drawing': str(drawing), 'width': image.shape[1], 'height': image.shape[0]}
        _write_image(drawing, predictor.draw(image, prediction))
        if prediction.labels is not None:
            name = drawing.relative_to(self.out)
            path = self.out / LABELS / (name if name.suffix == '.png' else name.with_name(f'{name.name}.png'))
            _write_image(path, prediction.labels)
            result['labels'] = str(path)
        self.console.print(f'{file}: {predictor.summary(prediction.values)}', markup=False)
        return {**result, **prediction.values}

    def _video(self, source: Path | int, drawing: Path, predictor: Predictor, progress: Progress) -> dict[str, Any]:
        is_camera, results = isinstance(source, int), []
        try:
            frames = Frames(source)
        except (OSError, UserError) as error:
            if is_camera:
                raise
            return self._report(source, error)
        total = min(frames.expected or self.max_frames or 0, self.max_frames or frames.expected) or None
        task = progress.add_task('camera, Ctrl-C ends it' if is_camera else source.name, total=total)
        make_folder(drawing.parent, '--out')
        stream = islice(frames, self.max_frames)
        try:
            with write_video(drawing, frames.rate) as video:
                try:
                    while batch := list(islice(stream, self.batch_size)):
                        predictions = predictor.predict([frame for _, frame in batch])
                        for (seconds, frame), prediction in zip(batch, predictions, strict=True):
                            results.append({'seconds': seconds, **prediction.values})
                            video.write(predictor.draw(frame, prediction, is_frame=True), seconds)
                            progress.advance(task)
                except KeyboardInterrupt:
                    if not is_camera or not results:
                        raise
                if not results:
                    raise UserError(f'{source} cannot be decoded as a video')
        except UserError as error:
            if results or is_camera:
                raise
            return self._report(source, error)
        finally:
            frames.close()
            progress.update(task, visible=False)
        self.console.print(f'{source}: {len(results)} frames', markup=False)
        result = {'file': str(source), 'drawing': str(drawing), 'frames_per_second': frames.rate, 'frames': results}
        if total and len(results) < 0.9 * total:  # the number that a file claims is not exact
            result.update(self._report(source, UserError(
                f'{source} ends after {len(results)} of {total} frames; the rest cannot be decoded')))
        return result


def _write_image(path: Path, image: np.ndarray) -> None:
    make_folder(path.parent, '--out')
    with atomic_write(path) as part:
        Image.fromarray(image).save(part)
