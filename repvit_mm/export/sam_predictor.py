"""RepViT-SAM from two ONNX files, with onnxruntime, NumPy and Pillow."""
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CheckpointError
from ..io.images import IMAGENET
from ..sam.prompts import Prompt
from .onnx import open_session
from .sam import INPUTS, OUTPUTS, decoder_points


class OnnxPredictor:
    """A predictor like ``segment_anything``'s ``SamPredictor``, for the files of ``tools/sam_export.py``.

    Args:
        encoder: ONNX file of the image encoder.
        decoder: ONNX file of the decoder.

    Attributes:
        original_size: Height and width of the current image.

    Raises:
        CheckpointError: If a file is missing, or is not such an export.
    """

    def __init__(self, encoder: str | Path, decoder: str | Path):
        for path in (encoder, decoder):
            if not Path(path).is_file():
                raise CheckpointError(f'the exported model {path} does not exist; create it with tools/sam_export.py')
        self._encoder, self._decoder = open_session(Path(encoder)), open_session(Path(decoder))
        if [value.name for value in self._encoder.get_inputs()] != ['image']:
            raise CheckpointError(f'{encoder} is not an image encoder of tools/sam_export.py')
        if [value.name for value in self._decoder.get_inputs()] != list(INPUTS):
            raise CheckpointError(f'{decoder} is not a decoder of tools/sam_export.py')
        self._size = self._encoder.get_inputs()[0].shape[2]
        self.original_size: tuple[int, int] | None = None
        self._embedding: np.ndarray | None = None

    def set_image(self, image: np.ndarray) -> None:
        """Compute the embedding of an image, (H, W, 3) uint8 RGB."""
        height, width = self.original_size = image.shape[:2]
        scale = self._size / max(height, width)
        rows, columns = (int(side * scale + 0.5) for side in (height, width))
        scaled = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        padded = np.zeros((1, 3, self._size, self._size), dtype=np.float32)
        mean, std = np.float32(IMAGENET.mean), np.float32(IMAGENET.std)
        padded[0, :, :rows, :columns] = ((scaled - mean) / std).transpose(2, 0, 1)
        (self._embedding,) = self._encoder.run(None, {'image': padded})
        self._scale = np.float64([columns / width, rows / height])

    def predict(self, point_coords: np.ndarray | None = None, point_labels: np.ndarray | None = None,
                box: np.ndarray | None = None, mask_input: np.ndarray | None = None, multimask_output: bool = True,
                return_logits: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment; arguments and results are those of ``SamPredictor.predict``."""
        prompt = Prompt(() if point_coords is None else tuple(map(tuple, point_coords)),
                        () if point_labels is None else tuple(point_labels), None if box is None else tuple(box))
        coords, labels = decoder_points(prompt)
        side = self._size // 4
        mask = np.zeros((1, side, side), dtype=np.float32) if mask_input is None else mask_input
        inputs = (self._embedding, np.float32(coords * self._scale)[None], labels[None], np.float32(mask)[None],
                  np.float32([mask_input is not None]), np.float32(self.original_size))
        masks, scores, low_res = self._decoder.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True)))
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        masks, scores, low_res = masks[0, chosen], scores[0, chosen], low_res[0, chosen]
        return masks if return_logits else masks > 0, scores, low_res
