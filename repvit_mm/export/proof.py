"""The proof of a file: it is run on pictures, and compared with what PyTorch computes."""
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import ExportError
from .detections import prove_detections
from .pictures import load_pictures, normalise, to_pixels
from .runtimes import ExportedFile
from .subject import Options, Subject
from .verification import BOUNDS, Comparison, compare


def prove_with(opener: Callable[[Path], ExportedFile]) -> Callable[[Path, Subject, Options], list[Comparison]]:
    """The proof of files that an engine opens: in the size of the export, and in another one if it is open."""
    def prove_file(path: Path, subject: Subject, options: Options) -> list[Comparison]:
        file, sizes = opener(path), [subject.shape]
        if options.dynamic_size:
            sizes.append(tuple(size + 32 for size in subject.shape))
        return [result for size in sizes for result in prove(file, subject, size, options)]
    return prove_file


def prove(file: ExportedFile, subject: Subject, shape: tuple[int, int], options: Options) -> list[Comparison]:
    """Compare a file with what it was exported from, on one picture, then on three at once; see also
    :func:`repvit_mm.export.detections.prove_detections`.

    Args:
        file: To prove.
        subject: What it was exported from.
        shape: Height and width of the images, in pixels.
        options: Of the export.

    Raises:
        ExportError: If it does not compute what PyTorch does.
    """
    bounds = BOUNDS[options.precision]
    if options.selection is not None:
        return prove_detections(file, subject.model, shape, bounds, options.pictures)
    normalisation = subject.model.normalisation
    images = normalise(to_pixels(load_pictures(shape, 3, options.pictures), normalisation.channels), normalisation)
    results = []
    for batch in (images[:1], images):
        outputs = file.run({'image': batch.numpy()})
        with torch.no_grad():
            expected = subject.model(batch)
        if len(outputs) != len(expected):
            raise ExportError(f'{file.path.name} has {len(outputs)} outputs, PyTorch {len(expected)}')
        results += [compare(name, torch.from_numpy(output), value, bounds.outputs)
                    for (name, output), value in zip(outputs.items(), expected, strict=True)]
    return results
