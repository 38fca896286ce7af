"""Distilling an image encoder from a SAM with mmengine's runner: configs import this module by ``custom_imports``."""
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.registry import DATASETS, METRICS, MODELS
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import CheckpointError, ConfigError, DatasetError, UserError
from ..io.image_files import list_images
from ..io.images import IMAGENET, read_image
from .build import CHANNELS, STRIDE
from .encoder import SamEncoder
from .teacher import SamTeacher


def valid_cells(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the embedding that cover an image of ``size`` (height, width), without the padding."""
    return -(-int(size[0]) // STRIDE), -(-int(size[1]) // STRIDE)


@DATASETS.register_module()
class SamImages(Dataset):
    """The images of a folder, without labels, scaled to SAM's input size.

    Args:
        data_root: Folder of the data set.
        data_prefix: ``img``: its folder of images; subfolders are searched, too.
        image_size: Pixels of the longer side.

    Raises:
        UserError: If the folder does not exist or holds no image.
    """

    def __init__(self, data_root: str = '', data_prefix: Mapping = {'img': ''}, image_size: int = 1024):
        self.paths = list_images(Path(data_root, data_prefix['img']).expanduser())
        self.transform = ResizeLongestSide(image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs``: (3, H, W) uint8 RGB, longer side ``image_size``; ``digests``: SHA-256 of its pixels."""
        try:
            image = self.transform.apply_image(read_image(self.paths[index]))
        except UserError as error:
            raise DatasetError(f'{error}; remove or replace it') from error
        digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest()
        return {'inputs': torch.from_numpy(image.transpose(2, 0, 1).copy()), 'digests': digest}


@MODELS.register_module()
class SamPreprocessor(ImgDataPreprocessor):
    """Normalises images and pads them to a square, as SAM does.

    Args:
        image_size: Side of the square.
    """

    def __init__(self, image_size: int = 1024):
        super().__init__(IMAGENET.mean, IMAGENET.std, pad_size_divisor=image_size)

    def forward(self, data: dict[str, list], training: bool = False) -> dict[str, Any]:
        """Images of several sizes -> ``inputs`` (N, 3, S, S), their ``sizes`` and ``digests``."""
        sizes = [tuple(image.shape[-2:]) for image in data['inputs']]
        data = super().forward(data, training)
        return {'inputs': data['inputs'], 'sizes': sizes, 'digests': data['digests']}


@MODELS.register_module()
class SamDistiller(BaseModel):
    """Trains an image encoder to reproduce the embeddings of a SAM, by their mean squared error without the padding.

    Args:
        student: Arguments of :class:`repvit_mm.sam.SamEncoder`, without ``image_size``.
        teacher: Arguments of :class:`repvit_mm.sam.teacher.SamTeacher`, without ``image_size``.
        image_size: Side in pixels of the padded square that both get.
        points_per_side: Side of the grid of points for which masks are compared in validation.

    Raises:
        ConfigError: For invalid settings.
    """

    def __init__(self, student: Mapping, teacher: Mapping, image_size: int = 1024, points_per_side: int = 8):
        super().__init__(SamPreprocessor(image_size))
        if points_per_side < 1:
            raise ConfigError(f'points_per_side={points_per_side} must be at least 1')
        self.student = SamEncoder(**{'out_channels': CHANNELS, **student}, image_size=image_size)
        self.teacher = SamTeacher(**teacher, image_size=image_size)
        self.points_per_side = points_per_side

    def init_weights(self) -> None:
        """Initialise the student, and check before a training that the teacher has weights.

        Raises:
            ConfigError: If the teacher cannot be built.
        """
        super().init_weights()
        try:
            self.teacher.sam(torch.device('cpu'))
        except CheckpointError as error:
            raise ConfigError(f'model.teacher: {error}') from error

    def forward(self, inputs: Tensor, sizes: Sequence[tuple[int, int]], digests: Sequence[str] = (),
                mode: str = 'tensor') -> Any:
        """The embeddings of a batch, their loss, or their agreement with the teacher's.

        Args:
            inputs: (N, 3, S, S), normalised and padded.
            sizes: Height and width of each image.
            digests: See :meth:`SamTeacher.embed`.
            mode: ``'tensor'``, ``'loss'``, or ``'predict'``.
        """
        embeddings = self.student(inputs)
        if mode == 'tensor':
            return embeddings
        targets = self.teacher.embed(inputs, digests)
        if mode == 'loss':
            return {'loss_embedding': masked_mse(embeddings, targets, sizes)}
        sam = self.teacher.sam(inputs.device)
        return [{'mse': masked_mse(ours[None], theirs[None], [size]).item(),
                 'mask_iou': mask_agreement(sam, ours[None], theirs[None], size, self.points_per_side)}
                for ours, theirs, size in zip(embeddings, targets, sizes, strict=True)]


def masked_mse(embeddings: Tensor, targets: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Mean squared error of (N, C, h, w) over channels and the positions that cover the images."""
    mask = embeddings.new_zeros(len(sizes), 1, *embeddings.shape[2:])
    for number, size in enumerate(sizes):
        rows, columns = valid_cells(size)
        mask[number, :, :rows, :columns] = 1
    errors = (embeddings - targets).square().mean(1, keepdim=True)
    return (errors * mask).sum() / mask.sum()


@torch.no_grad()
def mask_agreement(sam: Sam, ours: Tensor, theirs: Tensor, size: tuple[int, int], points_per_side: int) -> float:
    """Agreement of the masks from two embeddings of an image.

    Args:
        sam: Its prompt encoder and mask decoder are used.
        ours: (1, 256, h, w).
        theirs: (1, 256, h, w).
        size: Height and width of the scaled image, in pixels.
        points_per_side: Side of the grid of prompt points, with three masks each.

    Returns:
        Mean IoU of the masks, without those that are empty in both.
    """
    height, width = size
    steps = (torch.arange(points_per_side, device=ours.device) + 0.5) / points_per_side
    grid = torch.stack(torch.meshgrid(steps * width, steps * height, indexing='xy'), -1).reshape(-1, 1, 2)
    ious = []
    for points in grid.split(16):
        sparse, dense = sam.prompt_encoder((points, torch.ones_like(points[..., 0])), None, None)
        both = [sam.mask_decoder(image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(),
                                 sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense,
                                 multimask_output=True)[0] for embedding in (ours, theirs)]
        rows, columns = -(-height // 4), -(-width // 4)
        first, second = (masks[..., :rows, :columns] > sam.mask_threshold for masks in both)
        intersection, union = (first & second).sum((2, 3)), (first | second).sum((2, 3))
        ious.append((intersection / union)[union > 0])
    return torch.cat(ious).mean().item()


@METRICS.register_module()
class DistillationAgreement(BaseMetric):
    """Mean over the images of ``mse`` (embeddings) and ``mask_iou`` from :class:`SamDistiller`."""

    default_prefix = 'teacher'

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, float]]) -> None:
        """Keep the figures of a batch."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Mean over all images."""
        return {key: float(np.nanmean([result[key] for result in results])) for key in ('mse', 'mask_iou')}
