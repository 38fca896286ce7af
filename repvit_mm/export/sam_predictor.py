"""RepViT-SAM from two ONNX files, with onnxruntime, NumPy and Pillow."""
from pathlib import Path

import numpy as np
from PIL import Image

from ..io.images import IMAGENET
from ..sam.prompts import Prompt
from .onnx import open_session
from .sam import OUTPUTS, chosen_masks, decoder_inputs, scaled_size


class OnnxPredictor:
    """A predictor like ``segment_anything``'s ``SamPredictor``, for the files of ``tools/sam_export.py``.

    Args:
        encoder: ONNX file of the image encoder.
        decoder: ONNX file of the decoder.

    Attributes:
        original_size: Height and width of the current image.
    """

    def __init__(self, encoder: str | Path, decoder: str | Path):
        self._encoder, self._decoder = open_session(Path(encoder)), open_session(Path(decoder))
        self._size = self._encoder.get_inputs()[0].shape[2:]

    def set_image(self, image: np.ndarray) -> None:
        """Compute the embedding of an image, (H, W, 3) uint8 RGB."""
        self.original_size = image.shape[:2]
        rows, columns = scaled_size(self.original_size, max(self._size))
        scaled = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        padded = np.zeros((1, 3, *self._size), dtype=np.float32)
        mean, std = np.float32(IMAGENET.mean), np.float32(IMAGENET.std)
        padded[0, :, :rows, :columns] = ((scaled - mean) / std).transpose(2, 0, 1)
        (self._embedding,) = self._encoder.run(None, {'image': padded})

    def predict(self, point_coords: np.ndarray | None = None, point_labels: np.ndarray | None = None,
                box: np.ndarray | None = None, mask_input: np.ndarray | None = None, multimask_output: bool = True,
                return_logits: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment; arguments and results are those of ``SamPredictor.predict``."""
        prompt = Prompt(() if point_coords is None else tuple(map(tuple, point_coords)),
                        () if point_labels is None else tuple(point_labels), None if box is None else tuple(box))
        masks, scores, low_res = (values[0, chosen_masks(multimask_output)] for values in self._decoder.run(
            list(OUTPUTS), decoder_inputs(prompt, self._embedding, self.original_size, max(self._size), mask_input)))
        return masks if return_logits else masks > 0, scores, low_res
