"""Folders of pictures whose names are classes."""
from collections import Counter
from pathlib import Path

from ..io.class_folders import HELD_OUT, SPLITS, find_classes, labelled_images, split_folders, subfolders
from .found import Found, Part, Picture, note_classes
from .tree import Tree, counted, named, sizes_of

KIND = 'class folders'
#: Names of folders that hold pictures of other tasks.
OTHER = {'images', 'img', 'jpegimages', 'labels', 'annotations', 'masks', *sum(SPLITS.values(), ())}


def find(tree: Tree) -> list[str]:
    """The class folders: those with pictures, in a folder of a split or alone."""
    with_pictures = {path.relative_to(tree.root).parts[0] for path in tree.pictures}
    return [name for name in subfolders(tree.root) if name in with_pictures
            and (name.lower() not in OTHER or subfolders(tree.root / name))]


def read(tree: Tree, _: list[str]) -> Found:
    """Read class folders, as :class:`repvit_mm.training.classification.ImageFolder` does.

    Raises:
        DatasetError: See :func:`repvit_mm.io.class_folders.find_classes`, or if there is no folder for validation.
    """
    classes = find_classes(tree.root)
    notes, parts, broken = [], {}, False
    for split in SPLITS:
        labels = labelled_images(tree.root, split, classes, HELD_OUT)
        sizes = sizes_of(list(labels))
        parts[split] = Part([Picture(path, sizes.get(path), label=label) for path, label in labels.items()],
                            Counter(labels.values()), {})
        if unreadable := [path for path, size in sizes.items() if size is None]:
            notes.append(f'{named(unreadable)} of {counted(len(labels), "pictures")} of {split} cannot be read, and '
                         'are left out')
            broken = True
    if not split_folders(tree.root):
        notes.append('there is no split: a fifth of each class, always the same pictures, is held out for validation')
    note_classes(classes, parts, 'pictures', notes)
    return Found(KIND, 'classification', Path(tree.root), classes, parts, broken=broken, notes=notes)
