"""Run a model on all inputs; what was drawn, and the results as JSON, go into a folder."""
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
from ..io.image_files import IMAGE_SUFFIXES
from ..io.images import read_image
from .predictors import Predictor
from .sources import Frames, Inputs, write_video

#: The file with all results.
RESULTS = 'predictions.json'
#: The folder with label maps.
LABELS = 'labels'


class Run:
    """A run over all inputs. Where its results go is checked before a model is loaded.

    A picture or video that cannot be decoded is reported, and that is an error after the others have their results.

    Args:
        inputs: From :func:`find_inputs`.
        out: Folder of the results; made if needed.
        batch_size: Pictures or frames that the model gets at a time.
        max_frames: Of a video or camera, only so many frames.

    Attributes:
        failures: The number of files that could not be decoded.

    Raises:
        UserError: If the folder cannot be written or holds files that are not from an earlier run, or a drawing would
            replace its picture.
    """

    def __init__(self, inputs: Inputs, out: str | Path, batch_size: int = 1, max_frames: int | None = None):
        self.inputs, self.out = inputs, check_folder(out, RESULTS, '--out')
        self.batch_size, self.max_frames = batch_size, max_frames
        self.failures, self.console = 0, Console(highlight=False, soft_wrap=True)
        self.drawings = {file: self._drawing_of(file, name) for file, name in inputs.names().items()}
        files = {file.resolve() for file in self.drawings}
        for drawing in self.drawings.values():
            if drawing.resolve() in files:
                raise ConfigError(f'--out {out}: the drawing would replace {drawing}; choose another folder')
        file = next((path for path in self.out.rglob('[!.]*') if path.is_file()), None)
        if file is not None and not (self.out / RESULTS).exists():
            raise ConfigError(f'--out {out} holds {file.relative_to(self.out)}, but no {RESULTS} of an earlier run; '
                              'choose another folder')

    def start(self, predictor: Predictor, facts: Mapping[str, Any]) -> None:
        """Predict, draw and write.

        Args:
            predictor: The model.
            facts: What else the results state.

        Raises:
            UserError: If results cannot be written; or, when all is done, if files could not be decoded.
        """
        results = {**facts, 'task': predictor.task, 'classes': predictor.classes, 'pictures': [], 'videos': []}
        pictures, videos = self.inputs.pictures, self.inputs.videos
        try:
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task('pictures', total=len(pictures), visible=bool(pictures))
                for start in range(0, len(pictures), self.batch_size):
                    batch = pictures[start:start + self.batch_size]
                    self._pictures(batch, predictor, results['pictures'])
                    progress.advance(task, len(batch))
                for video in videos:
                    results['videos'].append(self._video(video, self.drawings[video], predictor, progress))
                if self.inputs.camera is not None:
                    drawing = self.out / f'camera_{self.inputs.camera}.mp4'
                    results['videos'].append(self._video(self.inputs.camera, drawing, predictor, progress))
        finally:  # what is drawn is also told, and makes the folder one of ours, where Ctrl-C ends the run
            if results['pictures'] or results['videos']:
                write_json(make_folder(self.out, '--out') / RESULTS, results)
        done = len(pictures) + len(results['videos'])
        self.console.print(f'wrote {self.out / RESULTS} and the drawings', markup=False)
        if self.failures:
            raise UserError(f'{self.failures} of {done} files could not be decoded to their end, see above')

    def _drawing_of(self, file: Path, name: Path) -> Path:
        if file in self.inputs.videos:
            return self.out / name.with_name(f'{name.stem}.mp4' if name.suffix == '.mp4' else f'{name.name}.mp4')
        return self.out / (name if name.suffix.lower() in IMAGE_SUFFIXES else name.with_name(f'{name.name}.png'))

    def _report(self, file: Path, error: Exception) -> dict[str, Any]:
        """One line for a file that cannot be decoded, on stderr, and what the results say of it."""
        self.failures += 1
        Console(stderr=True, highlight=False, soft_wrap=True).print(f'skipped: {error}', style='yellow', markup=False)
        return {'file': str(file), 'error': str(error)}

    def _pictures(self, files: Sequence[Path], predictor: Predictor, results: list[dict[str, Any]]) -> None:
        images, failed = {}, {}
        for file in files:
            try:
                images[file] = read_image(file)
            except UserError as error:
                failed[file] = self._report(file, error)
        samples = iter(predictor.predict(list(images.values())) if images else [])
        for file in files:
            results.append(failed[file] if file in failed else
                           self._picture(file, images[file], predictor, next(samples)))

    def _picture(self, file: Path, image: np.ndarray, predictor: Predictor, sample: Any) -> dict[str, Any]:
        drawing, found = self.drawings[file], predictor.describe(sample)
        result = {'file': str(file), 'drawing': str(drawing), 'width': image.shape[1], 'height': image.shape[0]}
        _write_image(drawing, predictor.draw(image, sample))
        labels = predictor.labels(sample)
        if labels is not None:
            name = drawing.relative_to(self.out)  # with its suffix, as there may be a.jpg and a.png
            path = self.out / LABELS / (name if name.suffix == '.png' else name.with_name(f'{name.name}.png'))
            _write_image(path, labels)
            result['labels'] = str(path)
        self.console.print(f'{file}: {predictor.summary(found)}', markup=False)
        return {**result, **found}

    def _video(self, source: Path | int, drawing: Path, predictor: Predictor, progress: Progress) -> dict[str, Any]:
        try:
            frames = Frames(source)
        except (OSError, UserError) as error:
            if isinstance(source, int):
                raise
            return self._report(source, error)
        total = min(frames.expected or self.max_frames or 0, self.max_frames or frames.expected) or None
        task = progress.add_task('camera, Ctrl-C ends it' if isinstance(source, int) else source.name, total=total)
        make_folder(drawing.parent, '--out')
        results, stream = [], islice(frames, self.max_frames)
        try:
            with write_video(drawing, frames.rate) as video:
                try:
                    while batch := list(islice(stream, self.batch_size)):
                        for frame, sample in zip(batch, predictor.predict(batch), strict=True):
                            results.append({'seconds': len(results) / frames.rate, **predictor.describe(sample)})
                            video.write(predictor.draw_frame(frame, sample))
                            progress.advance(task)
                except KeyboardInterrupt:
                    if not isinstance(source, int) or not results:
                        raise
                if not results:
                    raise UserError(f'{source} cannot be decoded as a video')
        except UserError as error:
            if results or isinstance(source, int):
                raise
            return self._report(source, error)
        finally:
            frames.close()
            progress.update(task, visible=False)
        self.console.print(f'{source}: {len(results)} frames', markup=False)
        result = {'file': str(source), 'drawing': str(drawing), 'frames_per_second': frames.rate, 'frames': results}
        if total and len(results) < 0.9 * total:  # what a file claims is not exact
            result.update(self._report(source, UserError(
                f'{source} ends after {len(results)} of {total} frames; the rest cannot be decoded')))
        return result


def _write_image(path: Path, image: np.ndarray) -> None:
    make_folder(path.parent, '--out')
    with atomic_write(path) as part:
        Image.fromarray(image).save(part)
