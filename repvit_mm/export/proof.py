"""The proof of a file: it is run on pictures, and compared with what PyTorch computes."""
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import ExportError
from ..inference import InferenceModel
from .detections import prove_detections
from .detectors import WholeDetector
from .pictures import load_pictures, normalise, to_pixels
from .runtimes import ExportedFile
from .verification import Bounds, Comparison, compare


def prove(file: ExportedFile, subject: InferenceModel | WholeDetector, shape: Sequence[int], bounds: Bounds,
          pictures: Sequence[str | Path] = ()) -> list[Comparison]:
    """Compare a file with what it was exported from, on one picture, then on three at once; see also
    :func:`repvit_mm.export.detections.prove_detections`.

    Args:
        file: To prove.
        subject: What it was exported from, in its fused form.
        shape: Height and width of the images, in pixels.
        bounds: What it may differ by.
        pictures: See :func:`repvit_mm.export.load_pictures`.

    Raises:
        ExportError: If it does not compute what PyTorch does.
    """
    if isinstance(subject, WholeDetector):
        return prove_detections(file, subject, shape, bounds, pictures)
    images = normalise(to_pixels(load_pictures(shape, 3, pictures), subject.normalisation.channels),
                       subject.normalisation)
    results = []
    for batch in (images[:1], images):
        outputs = file.run({'image': batch.numpy()})
        with torch.no_grad():
            expected = subject(batch)
        if len(outputs) != len(expected):
            raise ExportError(f'{file.path.name} has {len(outputs)} outputs, PyTorch {len(expected)}')
        results += [compare(name, torch.from_numpy(output), value, bounds.outputs)
                    for (name, output), value in zip(outputs.items(), expected, strict=True)]
    return results
