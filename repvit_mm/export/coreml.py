"""Core ML, proven by running the saved package: with Core ML on a Mac, elsewhere operation by operation."""
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..models.inference import InferenceModel
from .detectors import WholeDetector
from .files import ExportedFile, as_text, parse_metadata
from .mil import MILProgram
from .prepare import Options, Subject

#: Stored form of the weights -> largest difference from PyTorch, relative to the largest value of an output. ``int8``
#: is linear and symmetric with a scale for each output channel: test the accuracy.
WEIGHTS = {'float': 0., 'int8': 0.1}


class CoreMLModel(nn.Module):
    """A fused model with the pre- and postprocessing for an app.

    Core ML itself scales pixels by a single factor and adds a bias to each channel. The rest of the normalisation, a
    factor close to one for each channel, is the first operation of the program.

    Args:
        model: In its fused form.
    """

    def __init__(self, model: InferenceModel | WholeDetector):
        super().__init__()
        self.model = model
        self.fused = fused = model.fused if isinstance(model, WholeDetector) else model
        mean, std, _ = fused.normalisation
        self.scale = len(std) / sum(std)
        self.bias = [-value * self.scale for value in mean]
        self.register_buffer('factors', torch.tensor([1 / (value * self.scale) for value in std])[:, None, None])

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(1, 3, H, W), scaled and shifted -> probabilities, a map of classes (1, H, W), detections, or maps."""
        outputs = self.model(image * self.factors)
        if self.fused.task.decision == 'softmax':
            return outputs[0].softmax(1)
        return outputs[0].argmax(1) if self.fused.task.decision == 'argmax' else outputs


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write an ML Program for iOS 16, macOS 13 and later.

    The input ``image`` is an image with pixels from 0 to 255, in the channel order of the model. The outputs are
    ``classLabel`` and ``classLabel_probs`` of a classifier, the int32 map ``classes`` of a segmentor, the maps of a
    backbone (``stage1``, ...) or of a detector's neck (``level0``, ...), in the precision of the program, or the
    detections of a whole detector.

    Returns:
        Number of occurrences of each operation.

    Raises:
        ExportError: If a whole detector is asked for several sizes or compressed weights.
    """
    model, whole = subject.fused, isinstance(subject.model, WholeDetector)
    if whole and (options.more_shapes or options.weights != 'float'):
        raise ExportError(f'{model.name} with its detections has one size, and weights as they are: --also-shape and '
                          '--weights are for --pyramid')
    import coremltools as ct
    from coremltools.optimize import coreml as optimize
    wrapped, shapes = CoreMLModel(subject.model).eval(), [subject.shape, *map(tuple, options.more_shapes)]
    image, sizes = subject.inputs['image'], [(1, 3, *size) for size in shapes]
    names, labels = subject.outputs, None
    if model.task.decision == 'softmax':
        with torch.no_grad():
            labels = ct.ClassifierConfig(class_labels(model, wrapped(image).shape[1]), 'classLabel', 'probabilities')
        names = ['probabilities']
    elif model.task.decision == 'argmax':
        names = ['classes']
    half = ct.transform.FP16ComputePrecision(_is_layer) if whole else ct.precision.FLOAT16
    package = convert(
        wrapped, image, inputs=[ct.ImageType(
            'image', sizes[0] if len(sizes) == 1 else ct.EnumeratedShapes(sizes, sizes[0]), wrapped.scale, wrapped.bias,
            getattr(ct.colorlayout, model.normalisation.channels))],
        outputs=[ct.TensorType(name) for name in names], classifier_config=labels,
        compute_precision=half if options.precision == 'fp16' else ct.precision.FLOAT32)
    if options.weights == 'int8':
        config = optimize.OpLinearQuantizerConfig(mode='linear_symmetric', dtype='int8', granularity='per_channel')
        package = optimize.linear_quantize_weights(package, optimize.OptimizationConfig(global_config=config))
    _set_metadata(package, subject, shapes)
    package.save(str(path))
    return MILProgram(path).counts()


@torch.no_grad()
def convert(model: nn.Module, example: Any, **settings: Any) -> Any:
    """Convert a model to a program for iOS 16; see ``coremltools.convert`` for the settings."""
    import coremltools as ct
    traced = torch.jit.trace(model, example, check_trace=False)
    return ct.convert(traced, convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
                      **settings)


def _is_layer(operation: Any) -> bool:
    """Whether an operation computes a map; boxes need more than half precision."""
    return operation.outputs[0].rank == 4


def class_labels(model: InferenceModel, number: int) -> list[str]:
    """Names of the classes, or their numbers if the names are unknown; a repeated name gets its number appended."""
    if model.classes is None or len(model.classes) != number:
        return [str(index) for index in range(number)]
    times = Counter(model.classes)
    return [f'{name} ({index})' if times[name] > 1 else name for index, name in enumerate(model.classes)]


def _set_metadata(package: Any, subject: Subject, shapes: Sequence[Sequence[int]]) -> None:
    metadata = subject.metadata
    package.short_description, package.version = metadata['description'], metadata['repvit_mm_version']
    package.author, package.license = metadata.get('source', ''), metadata.get('license', '')
    package.user_defined_metadata.update(as_text({**metadata, 'outputs': subject.outputs}))
    package.input_description['image'] = (
        f'{subject.fused.normalisation.channels} image of {" or ".join(f"{w} x {h}" for h, w in shapes)} pixels '
        '(width x height), values from 0 to 255; normalised inside')


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a package as a file that takes normalised images.

    Off a Mac, its outputs are computed in torch, and the logits are among them.
    """
    program = MILProgram(path)
    description = program.spec.description
    metadata = parse_metadata(description.metadata.userDefined)
    image = description.input[0].type.imageType
    flexible = image.WhichOneof('SizeFlexibility') is not None
    shift, scale = (np.array(metadata[name], np.float32)[:, None, None] for name in ('mean', 'std'))
    task, predict = metadata['task'], _core_ml(path, program) if sys.platform == 'darwin' else None

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = (inputs['image'] * scale + shift).round().clip(0, 255).astype(np.float32)
        if predict is not None:
            found = predict(pixels[0, ::-1 if metadata['channels'] == 'BGR' else 1].transpose(1, 2, 0))
        else:
            found = program.run({'image': pixels})
            if task in _DECISIONS:
                found['logits'] = found[program.source_of(_DECISIONS[task])]
        if task == 'classification':
            found['probabilities'] = found['classLabel_probs'].reshape(1, -1)
        names = {'classification': ['logits', 'probabilities'], 'segmentation': ['logits', 'classes']}
        return {name: np.asarray(found[name]) for name in names.get(task, metadata['outputs']) if name in found}
    shape = (1, 3, *((None, None) if flexible else (image.height, image.width)))
    return ExportedFile(path, run, shape, metadata)


#: Task -> the operation that decides, whose input are the logits.
_DECISIONS = {'classification': 'softmax', 'segmentation': 'reduce_argmax'}


def _core_ml(path: Path, program: MILProgram) -> Callable[[np.ndarray], dict[str, Any]]:
    """What runs a package with Core ML on an RGB image, (H, W, 3); probabilities are in the order of the classes."""
    from coremltools.models import MLModel
    from PIL import Image
    model = MLModel(str(path))
    labels = [label for op in program.operations if op.op_type == 'classify' for label in op.classes.val]

    def predict(image: np.ndarray) -> dict[str, Any]:
        outputs = model.predict({'image': Image.fromarray(image.astype(np.uint8))})
        if labels:
            outputs['classLabel_probs'] = np.array([outputs['classLabel_probs'][label] for label in labels])
        return outputs
    return predict
