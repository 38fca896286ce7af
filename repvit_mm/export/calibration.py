"""Pictures to calibrate an int8 file on, prepared as the config's test pipeline does."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from ..errors import ExportError
from ..io.files import find_files
from ..io.image_files import IMAGE_SUFFIXES, choose_images
from ..io.images import check_image
from ..models.inference import InferenceModel
from ..toolboxes.datasets import datasets_of

#: Fewer pictures do not show the range of a map; more than this take time and change nothing.
LEAST, MOST = 8, 300
#: Of so many pictures, one is held out.
HELD_OUT = 4


class Pictures(NamedTuple):
    """Files of a folder: those to calibrate on, and those held out to judge the result."""

    calibration: list[Path]
    held_out: list[Path]


def find_pictures(folder: str | Path) -> Pictures:
    """Find the pictures in a folder and those inside of it; of many, some that are spread evenly.

    Raises:
        UserError: If there is no such folder, or it has too few pictures, or one of them cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ExportError(f'--calibrate {folder}: there is no such folder')
    paths = sorted(choose_images(find_files(folder))[0])
    if len(paths) < LEAST:
        raise ExportError(f'--calibrate {folder}: it holds {len(paths)} pictures ({", ".join(IMAGE_SUFFIXES)}), and at '
                          f'least {LEAST} are needed; some hundred like those that the model will see are good')
    number = min(len(paths), MOST)
    paths = [paths[index * len(paths) // number] for index in range(number)]
    for path in paths:
        check_image(path)
    return Pictures([path for index, path in enumerate(paths) if index % HELD_OUT], paths[::HELD_OUT])


class Quantisation(NamedTuple):
    """How an int8 file is made and judged.

    Attributes:
        pictures: See :func:`find_pictures`.
        data_root: Where the config's test data are; None for where the config says.
        allow_loss: Write the file whatever it loses.
    """

    pictures: Pictures
    data_root: str | None = None
    allow_loss: bool = False


class Preparation:
    """From the file of a picture to the inputs of an exported file.

    Args:
        model: Its config has the pipeline.
        shape: Height and width of the image that the file takes; None for any multiples of 32. A picture that the
            pipeline gives another size is scaled; for a detector its ratio is kept, and zeros fill the rest.

    Raises:
        ExportError: If the config has no test pipeline.
    """

    def __init__(self, model: InferenceModel, shape: Sequence[int] | None):
        steps = next((dataset.get('pipeline') for _, dataset in datasets_of(model.config, ['test_dataloader'])), None)
        if not steps:
            raise ExportError(f'{model.name} has no pipeline in test_dataloader, which prepares pictures to calibrate '
                              'on')
        with DefaultScope.overwrite_default_scope(model.config.default_scope):
            self.pipeline = Compose([step for step in steps if 'Annotations' not in step['type']])
        self.model, self.shape = model, shape

    def __call__(self, path: Path) -> dict[str, np.ndarray]:
        """``image`` (1, C, H, W), normalised; of a detector ``size``, too: height and width of the picture in it."""
        sample = self.pipeline(dict(img_path=str(path), img_id=0))
        batch = {'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}
        image = self.model.model.data_preprocessor(batch, False)['inputs']
        keep_ratio = self.model.task.name == 'detection'
        if keep_ratio:  # without what the preprocessor has filled up
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
