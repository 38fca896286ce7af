"""What an exporter gets: the fused form of a model, how it is called, what its file says about it, and the options."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.inference import InferenceModel
from .calibration import Preparation, Quantisation
from .detectors import Selection, WholeDetector
from .provenance import describe
from .verification import check_shape, count_convolutions, fused_for_export


class Options(NamedTuple):
    """How a model is exported. Which of them a format has is in its row of :data:`repvit_mm.export.backends.BACKENDS`.

    Attributes:
        precision: A key of :data:`repvit_mm.export.verification.BOUNDS`; None is the format's own.
        pictures: Files to compare the outputs on; see :func:`repvit_mm.export.load_pictures`.
        selection: Which detections a whole detector keeps; None exports backbone and neck of a detector.
        dynamic_size: Accept any height and width; for segmentors and detectors, any multiple of 32.
        more_shapes: Further sizes that the file accepts.
        weights: How the weights are stored, a key of :data:`repvit_mm.export.coreml.WEIGHTS`.
        quantisation: How an int8 file is made and judged; needed for that precision only.
    """

    precision: str | None = None
    pictures: Sequence[str | Path] = ()
    selection: Selection | None = None
    dynamic_size: bool = False
    more_shapes: Sequence[Sequence[int]] = ()
    weights: str = 'float'
    quantisation: Quantisation | None = None


class Subject(NamedTuple):
    """What is exported.

    Attributes:
        model: In its fused form.
        inputs: Name -> an example; the first one is the image, of the shape that is exported.
        outputs: Names of what the model gives.
        facts: Metadata: how the image is prepared, what the outputs are, where the weights are from.
        convolutions: How many there are in a forward pass.
    """

    model: InferenceModel | WholeDetector
    inputs: dict[str, Tensor]
    outputs: list[str]
    facts: dict[str, Any]
    convolutions: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image, in pixels."""
        return tuple(self.inputs['image'].shape[2:])

    @property
    def fused(self) -> InferenceModel:
        """The fused model, without what a whole detector puts around it."""
        return self.model.fused if isinstance(self.model, WholeDetector) else self.model

    def preparation(self, options: Options) -> Preparation:
        """What prepares pictures for the exported file."""
        return Preparation(self.fused, None if options.dynamic_size else self.shape)


@torch.no_grad()
def subject_of(model: InferenceModel, shape: Sequence[int], options: Options, fixed: bool = False) -> Subject:
    """Prepare a model for export; it stays as it is.

    Args:
        model: The model.
        shape: Height and width of the image, in pixels.
        options: Of the export.
        fixed: Whether all shapes of a whole detector are fixed.

    Raises:
        ExportError: If it cannot be exported for images of this shape.
    """
    for size in (shape, *options.more_shapes):
        check_shape(model, size)
    fused = fused_for_export(model)
    if options.selection is None:
        inputs = {'image': torch.zeros(1, fused.in_channels, *shape)}
        outputs, facts, subject = fused.output_names(len(fused(inputs['image']))), describe(fused), fused
    else:
        subject = WholeDetector(fused, options.selection, tuple(shape) if fixed else None)
        inputs, outputs = subject.example(shape), subject.output_names
        facts = {**describe(fused), **subject.facts(shape, options.dynamic_size)}
    return Subject(subject, inputs, outputs, facts, count_convolutions(subject, *inputs.values()))
