"""The proof of a file: its outputs on images are those of PyTorch."""
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..models.folding import relative_difference
from .coreml import WEIGHTS
from .detections import prove_detections
from .files import ExportedFile
from .half import HalfPrecision
from .images import load_inputs
from .prepare import Options, Subject
from .report import BOUNDS, Bounds, Comparison, HalfRange

#: A file may differ from PyTorch by this much more than PyTorch's rounding does from double precision.
OWN = 3


def prove(file: ExportedFile, subject: Subject, options: Options) -> list[Comparison]:
    """Compare a file with its model in each of its sizes, on one image and on three at once.

    The reference of a half-precision file is PyTorch in half precision; of a whole detector, see
    :func:`repvit_mm.export.detections.prove_detections`.

    Args:
        file: To prove.
        subject: The model that it was exported from.
        options: Of the export.

    Raises:
        ExportError: If its outputs differ from PyTorch's.
    """
    sizes, bounds = [subject.shape, *map(tuple, options.more_shapes)], BOUNDS[options.precision]
    if options.dynamic_size:
        sizes.append(tuple(size + 32 for size in subject.shape))
    bounds = bounds._replace(outputs=max(bounds.outputs, WEIGHTS[options.weights]))
    half = HalfPrecision(subject.model) if options.precision == 'fp16' else None
    return [result for size in sizes for result in _prove_size(file, subject, half, size, bounds, options)]


def prove_half(subject: Subject, options: Options) -> HalfRange:
    """Run PyTorch in half precision, and compare its outputs with single precision; those of a whole detector are
    compared in :func:`prove`.

    Returns:
        The largest value that a layer computes.

    Raises:
        ExportError: If a layer computes more than half precision holds, or the outputs differ.
    """
    half = HalfPrecision(subject.model)
    if options.selection is None:
        _prove_size(_file_of(half, subject), subject, None, subject.shape, BOUNDS['fp16'], options)
    else:
        for image in load_inputs(subject.shape, 3, subject.fused.normalisation, options.images):
            half(image[None], *list(subject.inputs.values())[1:])
    return half.range


def _file_of(half: HalfPrecision, subject: Subject) -> ExportedFile:
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = half(*(torch.from_numpy(inputs[name]) for name in subject.inputs))
        return {name: value.numpy() for name, value in zip(subject.outputs, outputs, strict=True)}
    return ExportedFile(Path(f'{subject.fused.name} in half precision'), run, (), subject.metadata)


def _prove_size(file: ExportedFile, subject: Subject, half: HalfPrecision | None, shape: tuple[int, int],
                bounds: Bounds, options: Options) -> list[Comparison]:
    if options.selection is not None:
        return prove_detections(file, subject.model, shape, bounds, options.images, half and _file_of(half, subject))
    reference = half or subject.model
    images, results = load_inputs(shape, 3, subject.fused.normalisation, options.images), []
    for batch in (images[:1], images):
        with torch.no_grad():
            expected = dict(zip(subject.outputs, reference(batch), strict=True))
        found = {}
        try:
            found = file.run({'image': batch.numpy()})
            results += _compare_all(found, expected, bounds)
        except ExportError as error:
            with torch.no_grad():
                again = dict(zip(subject.outputs, reference(batch), strict=True))
            if any(not torch.equal(value, expected[name]) for name, value in again.items()):
                raise ExportError(f'{subject.fused.name} computes something else in each call, in PyTorch too: it '
                                  'draws random numbers') from error
            if half or not found:
                raise
            own = _rounding(subject.model, batch, list(expected.values()))
            results += _compare_all(found, expected, bounds._replace(outputs=max(bounds.outputs, OWN * own)))
    return results


@torch.no_grad()
def _rounding(model: nn.Module, batch: Tensor, outputs: Sequence[Tensor]) -> float:
    """Largest difference of outputs from those in double precision, relative to the largest value."""
    exact = copy.deepcopy(model).double()(batch.double())
    return relative_difference(outputs, exact)


def _compare_all(found: Mapping[str, np.ndarray], expected: Mapping[str, Tensor], bounds: Bounds) -> list[Comparison]:
    if not found or set(found) - {*expected, 'probabilities', 'classes'}:
        raise ExportError(f'the file has the outputs {", ".join(found)}; expected {", ".join(expected)}')
    logits, results = next(iter(expected.values())), []
    for name, value in found.items():
        if name == 'classes':
            results.append(compare_classes(torch.from_numpy(value), logits.argmax(1), 5 * bounds.outputs))
        else:  # a probability moves by more than its logit
            wanted = logits.softmax(1) if name == 'probabilities' else expected[name]
            bound = bounds.outputs * (5 if name == 'probabilities' else 1)
            results.append(compare(name, torch.from_numpy(value), wanted, bound))
    return results


def compare(output: str, exported: Tensor, expected: Tensor, bound: float) -> Comparison:
    """Compare an output with PyTorch's.

    Raises:
        ExportError: If the shapes differ, or the values by more than ``bound`` times the largest value.
    """
    if exported.shape != expected.shape:
        raise ExportError(f"{output} has shape {tuple(exported.shape)}, PyTorch's {tuple(expected.shape)}")
    difference = relative_difference([exported.double()], [expected.double()])
    if not difference <= bound:  # also true for NaN
        raise ExportError(f"{output} differs from PyTorch's by {difference:.2g} of the largest value, more than "
                          f'{bound:g}')
    return Comparison(output, tuple(expected.shape), difference, bound)


def compare_classes(exported: Tensor, expected: Tensor, bound: float) -> Comparison:
    """Compare the class of each pixel: where two classes are nearly tied, rounding decides.

    Raises:
        ExportError: If more than a share ``bound`` of the pixels differ.
    """
    differing = (exported.reshape(expected.shape) != expected).double().mean().item()
    if differing > bound:
        raise ExportError(f'{differing:.2%} of the pixels are classified differently than in PyTorch')
    return Comparison('classes (share of pixels)', tuple(expected.shape), differing, bound)
