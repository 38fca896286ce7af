"""Folders of images whose names are classes."""
from collections import Counter
from pathlib import Path

from ..io.class_folders import SPLITS, find_classes, labelled_images, split_folders, subfolders
from .dataset import Dataset, Sample, Split
from .tree import Tree, counted, named

KIND = 'class folders'
#: Names of folders of images for other tasks.
OTHER = {'images', 'img', 'jpegimages', 'labels', 'annotations', 'masks', *sum(SPLITS.values(), ())}


def find(tree: Tree) -> list[str]:
    """The class folders: those with images, in a folder of a split or alone."""
    with_images = {path.relative_to(tree.root).parts[0] for path in tree.images}
    return [name for name in subfolders(tree.root) if name in with_images
            and (name.lower() not in OTHER or subfolders(tree.root / name))]


def read(tree: Tree, _: list[str], notes: list[str]) -> Dataset:
    """Read class folders, as :class:`repvit_mm.training.classification.ImageFolder` does.

    Raises:
        DatasetError: See :func:`repvit_mm.io.class_folders.find_classes`.
    """
    classes = find_classes(tree.root)
    splits = {}
    for split in SPLITS:
        labels = labelled_images(tree.root, split, classes)
        sizes = tree.look(labels)
        settings = {}
        if damaged := labels.keys() - sizes.keys():
            notes.append(f'{named(damaged)} of {counted(len(labels), "images")} of {split} cannot be decoded, and are '
                         'skipped')
            settings['corrupt'] = 'skip'
        samples = [Sample(path, size, label=labels[path]) for path, size in sizes.items()]
        splits[split] = Split(samples, Counter(sample.label for sample in samples), settings)
    if len(split_folders(tree.root)) < len(SPLITS):
        notes.append('there is no split: a fifth of each class, always the same images, is held out for validation')
    return Dataset(KIND, 'classification', Path(tree.root), classes, splits, notes=notes)
