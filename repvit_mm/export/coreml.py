"""Core ML, proven by running the saved package: with Core ML on a Mac, elsewhere operation by operation."""
import copy
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..models.inference import InferenceModel
from .detections import prove_detections
from .detector_operations import DETECTOR_OPERATIONS
from .detectors import WholeDetector
from .mil_evaluator import MILProgram, quiet
from .pictures import load_pictures, normalise, to_pixels
from .provenance import PAPER
from .runtimes import ExportedFile
from .subject import Options, Subject
from .verification import BOUNDS, Comparison, GraphNode, check_fused, compare, constant_scales

#: Stored form of the weights -> largest difference from PyTorch, relative to the largest value of an output. ``int8``
#: is linear and symmetric with a scale for each output channel; ``palette6`` gives each tensor a table of 64 values,
#: found by k-means. Both are post-training approximations: test the accuracy.
WEIGHTS = {'float': 0., 'int8': 0.1, 'palette6': 0.3}


class CoreMLModel(nn.Module):
    """A fused model with the pre- and postprocessing that an app would need.

    Core ML itself scales pixels by a single factor and adds a bias to each channel. The rest of the normalisation, a
    factor close to one for each channel, is folded into the first convolution. This is exact: zero padding stays zero,
    which would not be true of the means.

    Args:
        model: In its fused form; modified in place.
    """

    def __init__(self, model: InferenceModel | WholeDetector):
        super().__init__()
        self.model = model
        self.fused = fused = model.fused if isinstance(model, WholeDetector) else model
        mean, std, self.channels = fused.normalisation
        self.scale = len(std) / sum(std)
        self.bias = [-value * self.scale for value in mean]
        stem = fused.backbone.stem.conv1
        factors = torch.tensor([1 / (value * self.scale) for value in std], dtype=torch.float64)
        stem.weight.data = (stem.weight.double() * factors[:, None, None]).float()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(1, 3, H, W), scaled and shifted -> probabilities, a map of classes (1, H, W), detections, or maps."""
        outputs = self.model(image)
        if self.fused.task.decision == 'softmax':
            return outputs[0].softmax(1)
        if self.fused.task.decision == 'argmax':
            return outputs[0].argmax(1)
        return outputs

    def output_names(self, names: Sequence[str]) -> Sequence[str]:
        """Names of the outputs, of which those of the model are given."""
        return {'softmax': ['probabilities'], 'argmax': ['classes']}.get(self.fused.task.decision, names)


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write an ML Program for iOS 16, macOS 13 and later.

    The input ``image`` is an image with pixels from 0 to 255, in the channel order of the model. The outputs are
    ``classLabel`` and ``classLabel_probs`` of a classifier, the int32 map ``classes`` of a segmentor, the maps of a
    backbone (``stage1``, ...) or of a detector's neck (``level0``, ...), in the precision of the program, or what a
    whole detector finds.

    Returns:
        How often each operation occurs.

    Raises:
        ExportError: If the image does not have three channels, or the program is not fused.
    """
    model, whole = subject.fused, isinstance(subject.model, WholeDetector)
    if model.in_channels != 3:
        raise ExportError(f'{model.name} expects {model.in_channels} channels, but an image in Core ML has 3')
    if whole and (options.more_shapes or options.weights != 'float'):
        raise ExportError(f'{model.name} with its detections has one size, and weights as they are: --also-shape and '
                          '--weights are for --pyramid')
    shapes = _shapes(subject, options)
    with quiet():
        package = _convert(CoreMLModel(copy.deepcopy(subject.model)).eval(), shapes, options.precision,
                           subject.outputs)
        package = _compress(package, options.weights)
        _set_metadata(package, subject, shapes)
        package.save(str(path))
    program = MILProgram(path)
    check_fused(_nodes(program), subject.convolutions)
    return program.counts()


def prove(path: Path, subject: Subject, options: Options) -> list[Comparison]:
    """Compare a package with PyTorch, on two pictures of each of its sizes.

    Raises:
        ExportError: If it does not compute what PyTorch does.
    """
    bounds = BOUNDS[options.precision]
    if isinstance(subject.model, WholeDetector):
        return prove_detections(open_detector(path, subject), subject.model, subject.shape, bounds, options.pictures)
    program, bound = MILProgram(path), max(bounds.outputs, WEIGHTS[options.weights])
    return [result for size in _shapes(subject, options)
            for result in _prove(path, program, subject.model, size, bound, options.pictures)]


def open_detector(path: Path, subject: Subject) -> ExportedFile:
    """The package as a file that takes normalised images."""
    program = MILProgram(path, DETECTOR_OPERATIONS)
    mean, std, channels = subject.fused.normalisation
    shift, scale = (np.array(values, np.float32)[:, None, None] for values in (mean, std))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = (inputs['image'] * scale + shift).round()
        if runs_core_ml():
            picture = pixels[0, ::-1 if channels == 'BGR' else 1].transpose(1, 2, 0).astype(np.uint8)
            found = predict(path, picture, ())
        else:
            found = program.run(image=torch.from_numpy(pixels))
        return {name: found[name].numpy() for name in subject.outputs}
    return ExportedFile(path, run, tuple(subject.inputs['image'].shape), subject.facts)


def runner() -> str:
    """What runs a package in its proof."""
    return 'Core ML' if runs_core_ml() else 'the operations of the saved program, in torch'


def _shapes(subject: Subject, options: Options) -> list[tuple[int, ...]]:
    return [subject.shape, *map(tuple, options.more_shapes)]


@torch.no_grad()
def _convert(wrapped: CoreMLModel, shapes: Sequence[Sequence[int]], precision: str, names: Sequence[str]) -> Any:
    import coremltools as ct
    image = torch.zeros(1, 3, *shapes[0])
    outputs = wrapped(image)
    with constant_scales():
        traced = torch.jit.trace(wrapped, image, check_trace=False)
    sizes = [(1, 3, *size) for size in shapes]
    is_classifier = wrapped.fused.task.decision == 'softmax'
    half = ct.transform.FP16ComputePrecision(_is_layer) if isinstance(wrapped.model, WholeDetector) else (
        ct.precision.FLOAT16)
    return ct.convert(
        traced, convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
        inputs=[ct.ImageType('image', sizes[0] if len(sizes) == 1 else ct.EnumeratedShapes(sizes, sizes[0]),
                             wrapped.scale, wrapped.bias, getattr(ct.colorlayout, wrapped.channels))],
        outputs=[ct.TensorType(name) for name in wrapped.output_names(names)],
        classifier_config=ct.ClassifierConfig(class_labels(wrapped.fused, outputs.shape[1]), 'classLabel',
                                              'probabilities') if is_classifier else None,
        compute_precision=half if precision == 'fp16' else ct.precision.FLOAT32)


def _is_layer(operation: Any) -> bool:
    """Whether an operation computes a map; boxes need more than half precision."""
    return operation.outputs[0].rank == 4


def class_labels(model: InferenceModel, number: int) -> list[str]:
    """Names of the classes, or their numbers if the names are unknown; a repeated name gets its number appended."""
    if model.classes is None or len(model.classes) != number:
        return [str(index) for index in range(number)]
    times = Counter(model.classes)
    return [f'{name} ({index})' if times[name] > 1 else name for index, name in enumerate(model.classes)]


def _compress(package: Any, weights: str) -> Any:
    if weights == 'float':
        return package
    from coremltools.optimize import coreml as optimize
    if weights == 'int8':
        config = optimize.OpLinearQuantizerConfig(mode='linear_symmetric', dtype='int8', granularity='per_channel')
        return optimize.linear_quantize_weights(package, optimize.OptimizationConfig(global_config=config))
    config = optimize.OpPalettizerConfig(mode='kmeans', nbits=6)
    return optimize.palettize_weights(package, optimize.OptimizationConfig(global_config=config))


def _set_metadata(package: Any, subject: Subject, shapes: Sequence[Sequence[int]]) -> None:
    facts = subject.facts
    package.short_description = facts['description']
    package.author, package.license, package.version = PAPER, facts['license'], facts['repvit_mm_version']
    for key, value in facts.items():
        package.user_defined_metadata[key] = value if isinstance(value, str) else json.dumps(value)
    package.input_description['image'] = (
        f'{subject.fused.normalisation.channels} image of {" or ".join(f"{w} x {h}" for h, w in shapes)} pixels '
        '(width x height), values from 0 to 255; normalised inside')


def _nodes(program: MILProgram) -> Iterator[GraphNode]:
    for op in program.operations:
        if op.op_type == 'conv':
            groups = int(op.inputs['groups'].val)
            yield GraphNode('conv', op.inputs['x'].name, groups > 1 and groups == program.weight_of(op).shape[0])
        else:
            source = op.inputs.get('x')
            yield GraphNode('norm' if op.op_type == 'batch_norm' else 'other', getattr(source, 'name', ''))


@torch.no_grad()
def _prove(path: Path, program: MILProgram, fused: InferenceModel, shape: Sequence[int], bound: float,
           pictures: Sequence[str | Path]) -> list[Comparison]:
    """Compare on two pictures."""
    results = []
    for picture in load_pictures(shape, 2, pictures):
        pixels = to_pixels(picture[None], fused.normalisation.channels)
        expected = fused(normalise(pixels, fused.normalisation))
        if runs_core_ml():
            found = predict(path, picture, class_labels(fused, expected[0].shape[1]))
        else:
            found = program.run(image=pixels)
        if fused.task.decision == 'softmax':
            results += _compare_classifier(found, expected[0], program, bound)
        elif fused.task.decision == 'argmax':
            results += _compare_segmentor(found, expected[0], program, bound)
        else:
            names = fused.output_names(len(expected))
            results += [compare(name, found[name], value, bound) for name, value in zip(names, expected, strict=True)]
    return results


def _compare_classifier(found: Mapping[str, Tensor], logits: Tensor, program: MILProgram,
                        bound: float) -> list[Comparison]:
    """Compare the logits where the program's intermediate values are known, else the probabilities."""
    probabilities = found['classLabel_probs'].reshape(logits.shape)
    source = _source_of(program, 'softmax')
    if source not in found:
        return [compare('probabilities', probabilities, logits.softmax(1), 5 * bound)]
    compare('probabilities', probabilities, found[source].softmax(1), BOUNDS['fp16'].outputs)
    return [compare('logits', found[source], logits, bound)]


def _compare_segmentor(found: Mapping[str, Tensor], logits: Tensor, program: MILProgram,
                       bound: float) -> list[Comparison]:
    """Compare classes and, if known, logits: where two classes are nearly tied, rounding decides."""
    classes = found['classes'].reshape(logits.argmax(1).shape)
    differing = (classes != logits.argmax(1)).double().mean().item()
    results = [Comparison('classes (share of pixels)', tuple(classes.shape), differing, differing ** 0.5, 5 * bound)]
    source = _source_of(program, 'reduce_argmax')
    if source in found:
        results.append(compare('logits', found[source], logits, bound))
        differing = (classes != found[source].argmax(1)).double().mean().item()
    if differing > 5 * bound * (source not in found):
        raise ExportError(f'{differing:.2%} of the pixels are classified differently than in PyTorch')
    return results


def _source_of(program: MILProgram, kind: str) -> str:
    return next(op.inputs['x'].name for op in reversed(program.operations) if op.op_type == kind)


def runs_core_ml() -> bool:
    """Whether Core ML itself is available: only on macOS."""
    return sys.platform == 'darwin'


def predict(path: Path, picture: np.ndarray, labels: Sequence[str]) -> dict[str, Tensor]:
    """Run a package with Core ML.

    Args:
        path: The package.
        picture: RGB, uint8, (H, W, 3).
        labels: Of a classifier; the order in which its probabilities are returned.
    """
    from coremltools.models import MLModel
    from PIL import Image
    outputs = MLModel(str(path)).predict({'image': Image.fromarray(picture)})
    outputs.pop('classLabel', None)
    return {name: torch.tensor([[value[label] for label in labels]] if isinstance(value, Mapping) else value)
            for name, value in outputs.items()}
