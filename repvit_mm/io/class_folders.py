"""Folders of images whose names are classes. mmpretrain is not needed to look at them."""
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError, shortened
from .picture_files import EXTENSIONS, held_out

#: ``split`` -> names of its folder, in the order in which they are looked for.
SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'test')}


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
            raise DatasetError(f'the class folder {folder} has no images ({", ".join(EXTENSIONS)}); add images or '
                               'remove the folder')
        if count == 1 and not splits:
            raise DatasetError(f'the class folder {folder} has only one image; training and validation need one each')
    return classes


def labelled_images(root: str | Path, split: str, classes: Sequence[str], part: float) -> dict[Path, int]:
    """The images of a split, and the index of the class of each.

    Args:
        root: The folder.
        split: ``'train'`` or ``'val'``.
        classes: What :func:`find_classes` found.
        part: Fraction of each class that is held out for validation if there are no folders for the splits.

    Raises:
        DatasetError: If there are folders for the splits, but none for this one.
    """
    root = Path(root).expanduser()
    splits = split_folders(root)
    if splits and split not in splits:
        raise DatasetError(f'{root} has the folder {next(iter(splits.values())).name}, but no folder for {split} '
                           f'({", ".join(SPLITS[split])})')
    found = {}
    for label, name in enumerate(classes):
        images = images_of(splits.get(split, root) / name)  # none for a class without validation images
        if not splits:
            val = held_out(images, part)
            images = val if split == 'val' else sorted(set(images) - set(val))
        found.update(dict.fromkeys(images, label))
    return found


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder. A folder without subfolders is not a split, but a class of that name."""
    found = {}
    for split, names in SPLITS.items():
        folders = [root / name for name in names if (root / name).is_dir() and subfolders(root / name)]
        if folders:
            found[split] = folders[0]
    return found


def subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))


def images_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in EXTENSIONS
                  and not path.name.startswith('.'))
