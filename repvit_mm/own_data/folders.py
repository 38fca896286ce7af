"""Folders of pictures whose names are classes."""
from collections import Counter
from pathlib import Path

from ..class_folders import SPLITS, find_classes, images_of, split_folder, subfolders
from ..picture_files import held_out
from .found import Found, Part, Picture, note_classes
from .tree import HELD_OUT, Tree, counted, named, sizes_of

KIND = 'class folders'
#: Names of folders that hold pictures of other tasks.
OTHER = {'images', 'img', 'jpegimages', 'labels', 'annotations', 'masks', *sum(SPLITS.values(), ())}


def find(tree: Tree) -> list[str]:
    """The class folders: those with pictures, in a folder of a split or alone."""
    with_pictures = {path.relative_to(tree.root).parts[0] for path in tree.pictures}
    return [name for name in subfolders(tree.root) if name in with_pictures
            and (name.lower() not in OTHER or subfolders(tree.root / name))]


def read(tree: Tree, _: list[str]) -> Found:
    """Read class folders, as :class:`repvit_mm.classification.ImageFolder` does.

    Raises:
        DatasetError: See :func:`repvit_mm.class_folders.find_classes`, or if there is no folder for validation.
    """
    classes = find_classes(tree.root)
    notes, parts, broken = [], {}, False
    for split in SPLITS:
        folder, is_split = split_folder(tree.root, split)
        pictures, labels = [], {}
        for label, name in enumerate(classes):
            paths = images_of(folder / name) if (folder / name).is_dir() else []
            if not is_split:
                val = held_out(paths, HELD_OUT)
                paths = val if split == 'val' else sorted(set(paths) - set(val))
            pictures += paths
            labels.update(dict.fromkeys(paths, label))
        sizes = sizes_of(pictures)
        parts[split] = Part([Picture(path, sizes.get(path), label=labels[path]) for path in pictures],
                            Counter(labels.values()), {})
        if unreadable := [path for path, size in sizes.items() if size is None]:
            notes.append(f'{named(unreadable)} of {counted(len(pictures), "pictures")} of {split} cannot be read, and '
                         'are left out')
            broken = True
    if not is_split:
        notes.append('there is no split: a fifth of each class, always the same pictures, is held out for validation')
    note_classes(classes, parts, 'pictures', notes)
    return Found(KIND, 'classification', Path(tree.root), classes, parts, broken=broken, notes=notes)
