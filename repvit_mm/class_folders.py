"""Folders of images whose names are classes. mmpretrain is not needed to look at them."""
from pathlib import Path

from .errors import DatasetError, shortened
from .picture_files import EXTENSIONS

#: ``split`` -> names of its folder, in the order in which they are looked for.
SPLITS = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation', 'test')}


def find_classes(data_root: str | Path) -> list[str]:
    """Names of the classes of a folder, see :class:`repvit_mm.classification.ImageFolder`.

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


def split_folder(root: str | Path, split: str) -> tuple[Path, bool]:
    """The folder with a split's classes, and whether it holds only that split."""
    folders = split_folders(Path(root).expanduser())
    if not folders:
        return Path(root).expanduser(), False
    if split not in folders:
        raise DatasetError(f'{root} has the folder {next(iter(folders.values())).name}, but no folder for {split} '
                           f'({", ".join(SPLITS[split])})')
    return folders[split], True


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
