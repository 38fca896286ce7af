"""Images and their classes: folders whose names are classes, and files of labels. mmpretrain is not needed."""
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DatasetError, shortened
from .files import find_files, is_junk, read_json
from .image_files import IMAGE_SUFFIXES, choose_images

#: Split -> names of its folder, in the order of preference.
SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'test')}
#: Fraction of the images that is held out for validation if a data set has no split.
HELD_OUT = 0.2
_LABEL_FORMAT = ('{"metainfo": {"classes": [NAME, ...]}, '
                 '"data_list": [{"img_path": PATH, "gt_label": [NUMBER, ...]}, ...]}')


def find_classes(data_root: str | Path) -> list[str]:
    """Names of the classes of a folder, see :class:`repvit_mm.training.classification.ImageFolder`.

    Raises:
        DatasetError: If the folder is missing, has no classes, has a class without images, has splits that do not
            match, or has them one level further down.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise DatasetError(f'there is no folder {root}; give the folder of the images with --data-root')
    splits = split_folders(root)
    if not splits and (inside := [name for name in subfolders(root) if split_folders(root / name)]):
        raise DatasetError(f'{root} has no folder for the training split ({", ".join(SPLITS["train"])}), but '
                           f'{root / inside[0]} has; give that one')
    first, *others = splits.values() if splits else (root,)
    classes = subfolders(first)
    if not classes:
        raise DatasetError(f'{root} has no folders; expected a folder of images for each class')
    for other in others:
        if extra := sorted(set(subfolders(other)) - set(classes)):
            raise DatasetError(f'{other} has the classes {shortened(extra)}, which {first} does not have')
    for folder in [split / name for split in (first, *others) for name in subfolders(split)]:
        count = len(images_of(folder))
        if count == 0:
            raise DatasetError(f'the class folder {folder} has no images ({", ".join(IMAGE_SUFFIXES)}); add images or '
                               'remove the folder')
        if count == 1 and 'val' not in splits:
            raise DatasetError(f'the class folder {folder} has only one image; training and validation need one each')
    return classes


def labelled_images(root: str | Path, split: str, classes: Sequence[str]) -> dict[Path, int]:
    """The images of a split, and the index of the class of each; a part is held out if there is no folder for it.

    Args:
        root: The folder.
        split: ``'train'`` or ``'val'``.
        classes: Class names, from :func:`find_classes`.

    Raises:
        DatasetError: If there is a folder for validation, but none for training.
    """
    root = Path(root).expanduser()
    splits = split_folders(root)
    if splits.keys() == {'train'}:
        root, splits = splits['train'], {}
    if splits and split not in splits:
        raise DatasetError(f'{root} has the folder {next(iter(splits.values())).name}, but no folder for {split} '
                           f'({", ".join(SPLITS[split])})')
    found = {}
    for label, name in enumerate(classes):
        images = images_of(splits.get(split, root) / name)  # none for a class without validation images
        if not splits:
            held = max(1, round(HELD_OUT * len(images)))
            val = sorted(random.Random(0).sample(images, len(images))[:held])  # always the same
            images = val if split == 'val' else sorted(set(images) - set(val))
        found.update(dict.fromkeys(images, label))
    return found


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder. A folder without subfolders is not a split, but a class of that name."""
    folders = {split: [root / name for name in names if (root / name).is_dir() and subfolders(root / name)]
               for split, names in SPLITS.items()}
    return {split: paths[0] for split, paths in folders.items() if paths}


def subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_junk(path.name))


def images_of(folder: Path) -> list[Path]:
    return sorted(choose_images(find_files(folder))[0])


def read_label_file(path: str | Path) -> list[str]:
    """Check an annotation file, and return the names of its classes.

    mmpretrain itself stops in the middle of an epoch, at the image whose labels are wrong.

    Args:
        path: The JSON file.

    Raises:
        DatasetError: If it cannot be read, has another format, or a label is not the number of a class.
    """
    content = read_json(path)
    try:
        classes, samples = content['metainfo']['classes'], content['data_list']
        labels = [(str(sample['img_path']), sample['gt_label']) for sample in samples]
    except (KeyError, TypeError) as error:
        raise DatasetError(f'{path} is not a file of labels: expected {_LABEL_FORMAT}') from error
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise DatasetError(f'{path}: metainfo.classes is {str(classes)[:100]!r}, expected a list of names')
    wrong = [(image, numbers) for image, numbers in labels if not _are_numbers(numbers, len(classes))]
    if wrong:
        image, numbers = wrong[0]
        raise DatasetError(f'{path}: {len(wrong)} of {len(labels)} images have labels that are not a list of numbers '
                           f'from 0 to {len(classes) - 1}, first {image}: {numbers!r}')
    return classes


def _are_numbers(labels: Any, classes: int) -> bool:
    return isinstance(labels, list) and all(type(label) is int and 0 <= label < classes for label in labels)
