"""Data sets of images in one folder per class."""
import logging
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmpretrain.datasets import BaseDataset

from ..errors import ConfigError, DatasetError, shortened
from ..io.class_folders import SPLITS, find_classes, labelled_images
from ..io.files import find_files
from ..io.image_files import choose_images, skipped_files
from ..io.images import check_images

#: Values of ``corrupt``: handling of images that cannot be decoded.
CORRUPT = ('stop', 'skip')


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Images in one folder per class.

    ``data_root`` holds ``train/CLASS/...`` and ``val/CLASS/...`` (or ``valid``, ``validation``, ``test``), or just one
    of ``train/CLASS/...`` and ``CLASS/...``: then a fixed part of each class is held out for validation. The classes
    are the folders of the training split in alphabetical order.

    Args:
        data_root: The folder.
        split: ``'train'`` or ``'val'``.
        corrupt: ``'stop'`` raises an error that names the images that cannot be decoded, ``'skip'`` skips them and
            logs their names; both decode every image once when the data set is built.
        pipeline: Transforms.
        test_mode: Whether the data set is for testing.
        indices: Number of images to use, or their indices.

    Raises:
        ConfigError: For an unknown setting.
        DatasetError: For a missing or empty folder, or corrupt images.
    """

    def __init__(self, data_root: str, split: str = 'train', corrupt: str = 'stop', pipeline: Sequence = (),
                 test_mode: bool = False, indices: int | Sequence[int] | None = None):
        for name, value, valid in (('split', split, tuple(SPLITS)), ('corrupt', corrupt, CORRUPT)):
            if value not in valid:
                raise ConfigError(f'ImageFolder: {name}={value!r} must be one of {", ".join(valid)}')
        self.split, self.corrupt = split, corrupt
        super().__init__(ann_file='', metainfo={'classes': tuple(find_classes(data_root))}, data_root=str(data_root),
                         pipeline=pipeline, test_mode=test_mode, indices=indices)

    def load_data_list(self) -> list[dict]:
        """Find the images of the split, and decode each once."""
        images = labelled_images(self.data_root, self.split, self.metainfo['classes'])
        inside = [path for path in find_files(self.data_root) if path.parent != Path(self.data_root)]
        if self.split == 'train' and (others := choose_images(inside)[1]):
            print_log(skipped_files(self.data_root, others), 'current', logging.WARNING)
        _, errors = check_images([*images])
        if errors:
            named = shortened([f'{path}: {reason}' for path, reason in errors.items()])
            summary = f'{len(errors)} of {len(images)} images cannot be decoded'
            if self.corrupt == 'stop':
                raise DatasetError(f"{summary} ({named}); repair or remove them, or set corrupt='skip' in its "
                                   'config to skip them')
            print_log(f'{summary} and are skipped: {named}', 'current')
        return [{'img_path': str(path), 'gt_label': label} for path, label in images.items() if path not in errors]
