"""Images to calibrate an int8 file on, prepared by the config's test pipeline."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from ..errors import ExportError
from ..io.image_files import list_images
from ..io.images import check_image
from ..models.inference import InferenceModel
from ..toolboxes.datasets import datasets_of

#: Fewer images do not show the range of a map; more take time and change nothing.
LEAST, MOST = 8, 300
#: Every fourth image is held out.
EVERY = 4


class Images(NamedTuple):
    """Files to calibrate on, and files held out to judge the result."""

    calibration: list[Path]
    held_out: list[Path]


def find_images(folder: str | Path) -> Images:
    """Find the images in a folder and its subfolders; of many, some that are spread evenly.

    Raises:
        UserError: If the folder is missing, or has too few images, or one of them is unreadable.
    """
    paths = list_images(folder)
    if len(paths) < LEAST:
        raise ExportError(f'--calibrate {folder}: it holds {len(paths)} images, and at least {LEAST} are needed; some '
                          'hundred like those that the model will see are good')
    number = min(len(paths), MOST)
    paths = [paths[index * len(paths) // number] for index in range(number)]
    for path in paths:
        check_image(path)
    return Images([path for index, path in enumerate(paths) if index % EVERY], paths[::EVERY])


class Quantisation(NamedTuple):
    """How an int8 file is made and judged.

    Attributes:
        images: See :func:`find_images`.
        data_root: Path of the config's test data; None for the config's own.
        allow_loss: Write the file whatever it loses.
    """

    images: Images
    data_root: str | None = None
    allow_loss: bool = False

    def preparation(self, subject: Any, options: Any) -> 'Preparation':
        """Prepares images for the file of a :class:`repvit_mm.export.prepare.Subject`."""
        return Preparation(subject.fused, None if options.dynamic_size else subject.shape)


class Preparation:
    """Maps an image file to the inputs of an exported file.

    Args:
        model: Its config has the pipeline.
        shape: Height and width of the file's input; None for any multiples of 32. An image of another size is scaled;
            for a detector its ratio is kept, and zeros fill the rest.

    Raises:
        ExportError: If the config has no test pipeline.
    """

    def __init__(self, model: InferenceModel, shape: Sequence[int] | None):
        steps = next((dataset.get('pipeline') for _, dataset in datasets_of(model.config, ['test_dataloader'])), None)
        if not steps:
            raise ExportError(f'{model.name} has no pipeline in test_dataloader, which prepares the images of '
                              '--calibrate')
        with DefaultScope.overwrite_default_scope(model.config.default_scope):
            self.pipeline = Compose([step for step in steps if 'Annotations' not in step['type']])
        self.model, self.shape = model, shape

    def __call__(self, path: Path) -> dict[str, np.ndarray]:
        """``image`` (1, C, H, W), normalised; for a detector also ``size``, height and width before padding."""
        sample = self.pipeline(dict(img_path=str(path), img_id=0))
        batch = {'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}
        image = self.model.model.data_preprocessor(batch, False)['inputs']
        keep_ratio = self.model.task.name == 'detection'
        if keep_ratio:  # without the preprocessor's padding
            height, width = sample['data_samples'].img_shape[:2]
            image = image[..., :height, :width]
        given = image.shape[2:]
        wanted = self.shape or [-(-length // 32) * 32 for length in given]
        scales = [new / old for new, old in zip(wanted, given, strict=True)]
        if keep_ratio:
            scales = [min(1., *scales)] * 2
        size = [round(scale * length) for scale, length in zip(scales, given, strict=True)]
        if tuple(size) != tuple(given):
            image = F.interpolate(image, size, mode='bilinear', align_corners=False, antialias=True)
        image = F.pad(image, (0, wanted[1] - size[1], 0, wanted[0] - size[0]))
        inputs = {'image': image.numpy()}
        return {**inputs, 'size': np.array(size, np.float32)} if keep_ratio else inputs
