"""Export of RepViT-SAM as two files, the image encoder and the decoder, to ONNX and Core ML.

The decoder is SAM's prompt encoder, mask decoder and the resizing of the masks in one. Its inputs:

====================  ====================  =======================================================================
``image_embeddings``  (1, 256, S/16, S/16)  output of the encoder
``point_coords``      (1, N, 2)             x, y in pixels of the scaled image (longer side S); any N
``point_labels``      (1, N)                see below
``mask_input``        (1, 1, S/4, S/4)      logits of an earlier mask, or zeros
``has_mask_input``    (1,)                  1 if ``mask_input`` is used, else 0
``orig_im_size``      (2,)                  height and width of the image before scaling
====================  ====================  =======================================================================

====  ====================================================================
1     inside the object
0     background
2, 3  upper left and lower right corner of a box around it
-1    padding: required once, at 0, 0, in a prompt without a box
====  ====================================================================

Its outputs: ``masks`` (1, 4, height, width), logits; ``iou_predictions`` (1, 4); ``low_res_masks`` (1, 4, S/4, S/4),
each of which can serve as ``mask_input``. Mask 0 is for several points or a box, masks 1 to 3 are for a single point.
"""
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.onnx import SamOnnxModel
from torch import Tensor

from ..checkpoints.reading import replaced
from ..errors import ExportError
from ..io.files import atomic_write
from ..io.images import read_image
from ..models.inference import SAM_ENCODER, InferenceModel
from ..sam.prompts import Prompt
from .formats import FORMATS, export_model, size_on_disk
from .mil import MILProgram
from .onnx import add_facts, count_operations, open_file, save_graph
from .packages import need
from .prepare import Options
from .prove import compare
from .report import Comparison, ExportReport
from .tracing import quiet

INPUTS = ('image_embeddings', 'point_coords', 'point_labels', 'mask_input', 'has_mask_input', 'orig_im_size')
OUTPUTS = ('masks', 'iou_predictions', 'low_res_masks')
#: Largest number of points for the Core ML decoder.
MAX_POINTS = 64
#: Largest difference from the predictor, relative to the largest value of an output.
BOUND = 1e-3


class SamDecoder(SamOnnxModel):
    """Prompt encoder, mask decoder and the resizing of masks, for tracing.

    In ``segment_anything``'s own module for export, the size of the traced image becomes a constant. Here, enlarging
    masks, cropping the padding and resizing to the image is a product with one matrix for rows and one for columns,
    computed from the size: exact, and the only operations on tensors of unknown shape are products.

    Args:
        sam: The model; its parts are shared.
    """

    def __init__(self, sam: Sam):
        super().__init__(sam, return_single_mask=False)
        side = sam.prompt_encoder.mask_input_size[0]
        with torch.no_grad():
            self.register_buffer('image_pe', sam.prompt_encoder.get_dense_pe())
            self.register_buffer('enlarging', F.interpolate(
                torch.eye(side)[None], size=self.img_size, mode='linear', align_corners=False)[0].T.contiguous())

    @torch.no_grad()
    def forward(self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor,
                has_mask_input: Tensor, orig_im_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the top of this module."""
        sparse = self._embed_points(point_coords, point_labels)
        dense = self._embed_masks(mask_input, has_mask_input)
        low_res, scores = self.mask_decoder.predict_masks(image_embeddings, self.image_pe, sparse, dense)
        return self.mask_postprocessing(low_res, orig_im_size), scores, low_res

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """(1, 4, S/4, S/4) -> (1, 4, height, width)."""
        sizes = orig_im_size.float()
        scaled = torch.floor(sizes * (self.img_size / sizes.max()) + 0.5)
        rows, columns = (self._resizing(sizes[axis], scaled[axis]) for axis in (0, 1))
        return rows @ masks @ columns.transpose(0, 1)

    def _resizing(self, size: Tensor, scaled: Tensor) -> Tensor:
        """Matrix, (size, S/4), that resizes a row or column of a mask to the image's ``size``."""
        positions = (torch.arange(size) + 0.5) * (scaled / size) - 0.5
        positions = torch.minimum(positions.clamp(min=0), scaled - 1)
        distances = positions[:, None] - torch.arange(self.img_size, dtype=torch.float)
        return (1 - distances.abs()).clamp(min=0) @ self.enlarging


class Case(NamedTuple):
    """A prompt on which an exported decoder is compared with the predictor.

    Attributes:
        inputs: Inputs of the decoder, by the names in :data:`INPUTS`.
        expected: Outputs of the predictor, by the names in :data:`OUTPUTS`.
        chosen: The masks of the decoder that the predictor returns.
    """

    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    chosen: slice


def export_encoder(sam: Sam, out: str | Path, checkpoint: str | None = None, precision: str = 'fp16',
                   images: Sequence[str | Path] = ()) -> ExportReport:
    """Export the image encoder to the format of ``out``'s suffix.

    The input for ONNX is the padded image from :meth:`Sam.preprocess`. For Core ML it is an image with pixels from 0
    to 255, padded at the right and the bottom with the colour 124, 116, 104, which is close to zero when normalised.

    Args:
        sam: The model.
        out: ``.onnx`` or ``.mlpackage``.
        checkpoint: Source of the weights, for the metadata.
        precision: Of Core ML, ``'fp16'`` or ``'fp32'``.
        images: Files to compare the outputs on.

    Raises:
        ExportError: If it cannot be exported, or its outputs differ from PyTorch's.
        UserError: If it cannot be written.
    """
    encoder, name = sam.image_encoder, _format_of(out)
    model = InferenceModel(f'sam_{encoder.backbone.arch}', encoder, SAM_ENCODER, checkpoint=checkpoint)
    options = Options(None if name == 'onnx' else precision, images)
    return export_model(model, name, (encoder.img_size, encoder.img_size), out, options)


def export_decoder(sam: Sam, out: str | Path, checkpoint: str | None = None,
                   images: Sequence[str | Path] = ()) -> ExportReport:
    """Export the decoder, and compare it with the predictor for several prompts and two sizes of image.

    For Core ML it stays in single precision: coordinates in pixels would be inexact in half precision.

    Args:
        sam: The model.
        out: ``.onnx`` or ``.mlpackage``.
        checkpoint: Source of the weights, for the metadata.
        images: Files to compare the outputs on; by default a photograph that comes with matplotlib.

    Raises:
        ExportError: If it cannot be exported, or its outputs differ from the predictor's.
        UserError: If it cannot be written.
    """
    out, name, cases = Path(out), _format_of(out), _cases(sam, images)
    facts = {'description': 'SAM mask decoder for the embeddings of RepViT-SAM',
             'image_size': sam.image_encoder.img_size, 'checkpoint': checkpoint or 'random weights'}
    decoder = SamDecoder(sam).eval()
    with atomic_write(out, FORMATS[name].is_folder) as path:
        run = (_write_onnx if name == 'onnx' else _write_coreml)(decoder, cases[0].inputs, path, facts)
        operations = count_operations(path) if name == 'onnx' else MILProgram(path).counts()
        comparisons = tuple(result for case in cases for result in _prove(run(case.inputs), case))
        return ExportReport(out, size_on_disk(path), operations, comparisons, FORMATS[name].engine)


def _format_of(out: str | Path) -> str:
    names = {FORMATS[name].suffix: name for name in ('onnx', 'coreml')}
    if Path(out).suffix not in names:
        raise ExportError(f'{out} must end in {" or ".join(names)}')
    return names[Path(out).suffix]


#: Runs a decoder: name of each input -> tensor; returns name of each output -> tensor.
_Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def _write_onnx(decoder: SamDecoder, inputs: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> _Run:
    onnx, _ = need('onnx'), need('onnxruntime')
    axes = {'point_coords': {1: 'points'}, 'point_labels': {1: 'points'}, 'masks': {2: 'height', 3: 'width'}}
    save_graph(decoder, inputs, path, OUTPUTS, axes)
    add_facts(path, facts)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    file = open_file(path)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = file.run({name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in found.items()}
    return run


@torch.no_grad()
def _write_coreml(decoder: SamDecoder, inputs: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> _Run:
    ct = need('coremltools')
    points = ct.RangeDim(lower_bound=1, upper_bound=MAX_POINTS, default=inputs['point_labels'].shape[1])
    flexible = {'point_coords': (1, points, 2), 'point_labels': (1, points)}
    # Core ML cannot repeat an embedding a variable number of times: there is one prompt.
    with quiet(), replaced(torch, 'repeat_interleave', lambda x, repeats, dim: x):
        traced = torch.jit.trace(decoder, tuple(inputs.values()), check_trace=False)
        package = ct.convert(
            traced, convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
            inputs=[ct.TensorType(name, flexible.get(name, tuple(value.shape)), dtype=np.float32)
                    for name, value in inputs.items()],
            outputs=[ct.TensorType(name) for name in OUTPUTS], compute_precision=ct.precision.FLOAT32)
        for key, value in facts.items():
            package.user_defined_metadata[key] = value if isinstance(value, str) else json.dumps(value)
        package.short_description = facts['description']
        package.save(str(path))
    program = MILProgram(path)
    return lambda inputs: program.run(**inputs)


@torch.no_grad()
def _cases(sam: Sam, paths: Sequence[str | Path]) -> list[Case]:
    """Prompts of every kind on an image and on its transpose, with the outputs of the predictor."""
    if not paths:
        from matplotlib.cbook import get_sample_data
        paths = [get_sample_data('grace_hopper.jpg', asfileobj=False)]
    photograph = read_image(paths[0])
    predictor, cases = SamPredictor(sam), []
    for image in (photograph, np.ascontiguousarray(photograph.transpose(1, 0, 2))):
        predictor.set_image(image)
        height, width = image.shape[:2]
        box = (0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height)
        point, other = (0.5 * width, 0.4 * height), (0.1 * width, 0.1 * height)
        for prompt in (Prompt((point,), (1,)), Prompt((point, other), (1, 0)), Prompt((point,), (1,), box)):
            cases.append(_case(predictor, prompt))
        cases.append(_case(predictor, Prompt((point,), (1,)), cases[-1].expected['low_res_masks']))
    return cases


def _case(predictor: SamPredictor, prompt: Prompt, mask: Tensor | None = None) -> Case:
    points, labels, box = prompt.arrays()
    masks, scores, low_res = predictor.predict(
        points, labels, box, None if mask is None else mask[0].numpy(), prompt.is_ambiguous, return_logits=True)
    expected = dict(zip(OUTPUTS, (torch.from_numpy(value)[None] for value in (masks, scores, low_res)), strict=True))
    coords, labels = decoder_points(prompt)
    coords = predictor.transform.apply_coords(coords, predictor.original_size)
    side = predictor.model.prompt_encoder.mask_input_size[0]
    inputs = (predictor.features, torch.tensor(coords, dtype=torch.float)[None],
              torch.tensor(labels, dtype=torch.float)[None],
              torch.zeros(1, 1, side, side) if mask is None else mask,
              torch.tensor([0. if mask is None else 1.]), torch.tensor(predictor.original_size, dtype=torch.float))
    chosen = slice(1, None) if prompt.is_ambiguous else slice(0, 1)
    return Case(dict(zip(INPUTS, inputs, strict=True)), expected, chosen)


def decoder_points(prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
    """A prompt for an exported decoder: (N, 2) coordinates in pixels of the image, and (N,) labels."""
    coords, labels = list(prompt.points), list(prompt.labels)
    if prompt.box is None:
        coords, labels = [*coords, (0., 0.)], [*labels, -1]
    else:
        coords, labels = [*coords, prompt.box[:2], prompt.box[2:]], [*labels, 2, 3]
    return np.array(coords, dtype=np.float32), np.array(labels, dtype=np.float32)


def _prove(found: Mapping[str, Tensor], case: Case) -> list[Comparison]:
    return [compare(name, found[name][:, case.chosen], case.expected[name], BOUND) for name in OUTPUTS]
