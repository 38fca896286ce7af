"""Export of RepViT-SAM as two files, the image encoder and the decoder, to ONNX and Core ML.

The decoder is SAM's prompt encoder, mask decoder and the resizing of the masks in one. Its inputs:

====================  ====================  =======================================================================
``image_embeddings``  (1, 256, H/16, W/16)  output of the encoder for images of H x W
``point_coords``      (1, N, 2)             x, y in pixels of the scaled image (longer side: that of H and W); any N
``point_labels``      (1, N)                see below
``mask_input``        (1, 1, H/4, W/4)      logits of an earlier mask, or zeros
``has_mask_input``    (1,)                  1 if ``mask_input`` is used, else 0
``orig_im_size``      (2,)                  height and width of the image before scaling
====================  ====================  =======================================================================

====  ====================================================================
1     inside the object
0     background
2, 3  upper left and lower right corner of a box around it
-1    padding: required once, at 0, 0, in a prompt without a box
====  ====================================================================

Its outputs: ``masks`` (1, 4, height, width), logits; ``iou_predictions`` (1, 4); ``low_res_masks`` (1, 4, H/4, W/4),
each of which can serve as ``mask_input``. Mask 0 is for several points or a box, masks 1 to 3 are for a single point.
"""
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from segment_anything.utils.onnx import SamOnnxModel
from torch import Tensor

from ..checkpoints.reading import replaced
from ..errors import ExportError
from ..io.files import atomic_write
from ..io.images import read_image
from ..models.inference import SAM_ENCODER, InferenceModel
from ..sam.build import PaddedSam
from ..sam.prompts import Prompt
from . import coreml, onnx
from .files import Run, as_text
from .formats import FORMATS, export_model, size_on_disk
from .images import or_photograph
from .mil import MILProgram
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

    def __init__(self, sam: PaddedSam):
        super().__init__(sam, return_single_mask=False)
        with torch.no_grad():
            self.register_buffer('image_pe', sam.prompt_encoder.get_dense_pe())
            for name, low, side in zip(('rows', 'columns'), sam.prompt_encoder.mask_input_size, sam.padded_size,
                                       strict=True):
                self.register_buffer(name, F.interpolate(
                    torch.eye(low)[None], size=side, mode='linear', align_corners=False)[0].T.contiguous())

    @torch.no_grad()
    def forward(self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor,
                has_mask_input: Tensor, orig_im_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the top of this module."""
        sparse = self._embed_points(point_coords, point_labels)
        dense = self._embed_masks(mask_input, has_mask_input)
        low_res, scores = self.mask_decoder.predict_masks(image_embeddings, self.image_pe, sparse, dense)
        return self.mask_postprocessing(low_res, orig_im_size), scores, low_res

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Logits of the decoder -> (1, 4, height, width)."""
        sizes = orig_im_size.float()
        scaled = torch.floor(sizes * (self.img_size / sizes.max()) + 0.5)
        rows, columns = (self._resizing(sizes[axis], scaled[axis], enlarging)
                         for axis, enlarging in enumerate((self.rows, self.columns)))
        return rows @ masks @ columns.transpose(0, 1)

    def _resizing(self, size: Tensor, scaled: Tensor, enlarging: Tensor) -> Tensor:
        """Matrix that resizes a row or column of a mask to the image's ``size``."""
        positions = (torch.arange(size) + 0.5) * (scaled / size) - 0.5
        positions = torch.minimum(positions.clamp(min=0), scaled - 1)
        distances = positions[:, None] - torch.arange(len(enlarging), dtype=torch.float)
        return (1 - distances.abs()).clamp(min=0) @ enlarging


def scaled_size(size: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width of an image, scaled to a longer side."""
    height, width = (int(length * (side / max(size)) + 0.5) for length in size)
    return height, width


def decoder_inputs(prompt: Prompt, embedding: np.ndarray, size: Sequence[int], side: int,
                   mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Inputs of an exported decoder.

    Args:
        prompt: In pixels of the image.
        embedding: (1, 256, rows, columns), of the encoder.
        size: Height and width of the image.
        side: Longer side of the scaled image.
        mask: (1, 4 rows, 4 columns), logits of an earlier mask.

    Returns:
        Name of :data:`INPUTS` -> array.
    """
    corners = ((0., 0.),) if prompt.box is None else (prompt.box[:2], prompt.box[2:])
    height, width = scaled_size(size, side)
    coords = np.array([*prompt.points, *corners]) * (width / size[1], height / size[0])
    labels = [*prompt.labels, *((-1,) if prompt.box is None else (2, 3))]
    mask_input = np.zeros((1, *(4 * length for length in embedding.shape[2:]))) if mask is None else mask
    values = (embedding, coords[None], [labels], mask_input[None], [mask is not None], size)
    return {name: np.asarray(value, np.float32) for name, value in zip(INPUTS, values, strict=True)}


def export_encoder(sam: PaddedSam, out: str | Path, checkpoint: str | None = None, precision: str = 'fp16',
                   images: Sequence[str | Path] = ()) -> ExportReport:
    """Export the image encoder to the format of ``out``'s suffix.

    The input for ONNX is the padded image from :meth:`PaddedSam.preprocess`. For Core ML it is an image with pixels
    from 0 to 255, padded at the right and the bottom with the colour 124, 116, 104, close to zero when normalised.

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
    return export_model(model, name, encoder.image_size, out, options)


def export_decoder(sam: PaddedSam, out: str | Path, checkpoint: str | None = None,
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
    out, name, size = Path(out), _format_of(out), sam.padded_size
    metadata = {'description': 'SAM mask decoder for the embeddings of RepViT-SAM',
                'image_size': max(size), 'checkpoint': checkpoint or 'random weights'}
    embedding = np.zeros((1, 256, *sam.prompt_encoder.image_embedding_size))
    example = decoder_inputs(Prompt(((1., 1.),), (1,)), embedding, size, max(size))
    inputs = {name: torch.from_numpy(value) for name, value in example.items()}
    with atomic_write(out, FORMATS[name].is_folder) as path:
        write = _write_onnx if name == 'onnx' else _write_coreml
        run, operations = write(SamDecoder(sam).eval(), inputs, path, metadata)
        return ExportReport(out, size_on_disk(path), operations, tuple(_prove(run, sam, images)), FORMATS[name].engine)


def _format_of(out: str | Path) -> str:
    names = {FORMATS[name].suffix: name for name in ('onnx', 'coreml')}
    if Path(out).suffix not in names:
        raise ExportError(f'{out} must end in {" or ".join(names)}')
    return names[Path(out).suffix]


def _write_onnx(decoder: SamDecoder, inputs: Mapping[str, Tensor], path: Path,
                metadata: Mapping[str, Any]) -> tuple[Run, Mapping[str, int]]:
    axes = {'point_coords': {1: 'points'}, 'point_labels': {1: 'points'}, 'masks': {2: 'height', 3: 'width'}}
    onnx.save_graph(decoder, inputs, path, OUTPUTS, axes)
    onnx.add_metadata(path, metadata)
    need('onnx').checker.check_model(path, full_check=True)
    return onnx.open_file(path).run, onnx.count_operations(path)


@torch.no_grad()
def _write_coreml(decoder: SamDecoder, inputs: Mapping[str, Tensor], path: Path,
                  metadata: Mapping[str, Any]) -> tuple[Run, Mapping[str, int]]:
    ct = need('coremltools')
    points = ct.RangeDim(lower_bound=1, upper_bound=MAX_POINTS, default=inputs['point_labels'].shape[1])
    flexible = {'point_coords': (1, points, 2), 'point_labels': (1, points)}
    # Core ML cannot repeat an embedding a variable number of times: there is one prompt.
    with quiet(), replaced(torch, 'repeat_interleave', lambda x, repeats, dim: x):
        package = coreml.convert(
            decoder, tuple(inputs.values()), inputs=[
                ct.TensorType(name, flexible.get(name, tuple(value.shape)), dtype=np.float32)
                for name, value in inputs.items()],
            outputs=[ct.TensorType(name) for name in OUTPUTS], compute_precision=ct.precision.FLOAT32)
        package.user_defined_metadata.update(as_text(metadata))
        package.short_description = metadata['description']
        package.save(str(path))
    program = MILProgram(path)
    return program.run, program.counts()


@torch.no_grad()
def _prove(run: Run, sam: PaddedSam, paths: Sequence[str | Path]) -> Iterator[Comparison]:
    """Compare prompts of every kind with the predictor, on an image and on its transpose, or on what of them fits."""
    photograph, predictor, padded = read_image(or_photograph(paths)[0]), SamPredictor(sam), sam.padded_size
    for image in (photograph, photograph.transpose(1, 0, 2)):
        if padded[0] != padded[1]:
            image = image[:image.shape[1] * padded[0] // padded[1], :image.shape[0] * padded[1] // padded[0]]
        image = np.ascontiguousarray(image)
        predictor.set_image(image)
        height, width = image.shape[:2]
        box = (0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height)
        point, other = (0.5 * width, 0.4 * height), (0.1 * width, 0.1 * height)
        single, low_res = Prompt((point,), (1,)), None
        for prompt, refines in ((single, False), (Prompt((point, other), (1, 0)), False),
                                (single._replace(box=box), False), (single, True)):
            mask = low_res if refines else None
            points, labels, corners = prompt.arrays()
            expected = predictor.predict(points, labels, corners, mask, prompt.is_ambiguous, return_logits=True)
            low_res = expected[-1]
            found = run(decoder_inputs(prompt, predictor.features.numpy(), image.shape[:2], max(padded), mask))
            for name, value in zip(OUTPUTS, expected, strict=True):
                chosen = torch.from_numpy(found[name][0, chosen_masks(prompt.is_ambiguous)])
                yield compare(name, chosen, torch.from_numpy(value), BOUND)


def chosen_masks(ambiguous: bool) -> slice:
    """The masks of a decoder that the predictor returns."""
    return slice(1, None) if ambiguous else slice(0, 1)
