"""Data sets of images in one folder per class."""
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmpretrain.datasets import BaseDataset
from rich.progress import track

from ..errors import ConfigError, DatasetError, UserError, shortened
from ..io.class_folders import HELD_OUT, SPLITS, find_classes, labelled_images
from ..io.files import find_files
from ..io.image_files import choose_images, skipped_files
from ..io.images import check_image

#: Values of ``corrupt``: handling of images that cannot be decoded.
CORRUPT = ('stop', 'skip', 'unchecked')


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
            logs their names; both decode every image once when the data set is built. ``'unchecked'`` does not: such an
            image stops the run when it is loaded.
        val_part: Fraction of each class that is held out for validation if there is no folder for it.
        classes: Expected names of the classes, in order; not checked if None.
        pipeline: Transforms.
        test_mode: Whether the data set is for testing.
        indices: Number of images to use, or their indices.

    Raises:
        ConfigError: For an unknown setting.
        DatasetError: For a missing or empty folder, unexpected classes, or corrupt images.
    """

    def __init__(self, data_root: str, split: str = 'train', corrupt: str = 'stop', val_part: float = HELD_OUT,
                 classes: Sequence[str] | None = None, pipeline: Sequence = (), test_mode: bool = False,
                 indices: int | Sequence[int] | None = None):
        for name, value, valid in (('split', split, tuple(SPLITS)), ('corrupt', corrupt, CORRUPT)):
            if value not in valid:
                raise ConfigError(f'ImageFolder: {name}={value!r} must be one of {", ".join(valid)}')
        if not 0 < val_part < 1:
            raise ConfigError(f'ImageFolder: val_part={val_part} must be between 0 and 1')
        self.split, self.corrupt, self.val_part = split, corrupt, val_part
        found = find_classes(data_root)
        if classes is not None and list(classes) != found:
            raise DatasetError(f'{data_root} has the classes {shortened(found)}, expected {shortened(classes)}')
        super().__init__(ann_file='', metainfo={'classes': tuple(found)}, data_root=str(data_root), pipeline=pipeline,
                         test_mode=test_mode, indices=indices)

    def load_data_list(self) -> list[dict]:
        """Find the images of the split and, unless unchecked, decode each once."""
        images = labelled_images(self.data_root, self.split, self.metainfo['classes'], self.val_part)
        if self.split == 'train' and (others := choose_images(find_files(self.data_root))[1]):
            print_log(skipped_files(self.data_root, others), 'current', logging.WARNING)
        samples = [{'img_path': str(path), 'gt_label': label} for path, label in images.items()]
        if self.corrupt == 'unchecked':
            return samples
        errors = _decode_all([sample['img_path'] for sample in samples], f'{self.data_root} ({self.split})')
        if errors:
            named = shortened([f'{path}: {reason}' for path, reason in errors.items()])
            summary = f'{len(errors)} of {len(samples)} images cannot be decoded'
            if self.corrupt == 'stop':
                raise DatasetError(f"{summary} ({named}); repair or remove them, or set corrupt='skip' in its "
                                   'config to skip them')
            print_log(f'{summary} and are skipped: {named}', 'current')
        return [sample for sample in samples if sample['img_path'] not in errors]

    def prepare_data(self, idx: int) -> dict:
        """Load and transform an image; see :class:`mmengine.dataset.BaseDataset`."""
        try:
            return super().prepare_data(idx)
        except (OSError, SyntaxError, UserError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise DatasetError(f'{self.get_data_info(idx)["img_path"]} cannot be decoded: {error}') from error


def _decode_all(paths: Sequence[str], what: str) -> dict[str, str]:
    """Path -> reason, for the images that cannot be decoded completely."""
    with ThreadPoolExecutor() as pool:  # PIL releases the GIL while decoding
        reasons = pool.map(_try_decode, paths)
        if len(paths) > 5000:
            reasons = track(reasons, f'checking {what}', len(paths), transient=True)
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def _try_decode(path: str) -> str:
    try:
        check_image(path)
    except UserError as error:
        return str(error).removeprefix(path).lstrip(': ')
    return ''
