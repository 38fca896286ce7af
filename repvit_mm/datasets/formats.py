"""The formats of annotations, and which of them a folder holds."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DatasetError, shortened
from . import coco, cvat, folders, label_images, label_studio, labelme, table, voc, yolo
from .dataset import Dataset
from .objects import build
from .tree import Tree, counted, named

#: Classes with less than this to learn from are named.
FEW = 10


class Format(NamedTuple):
    """A format.

    Attributes:
        kind: Its name.
        find: Returns what a tree holds of it; empty if nothing.
        read: Reads that, with a list for notes: a :class:`Part` for each split, or for images without objects the
            data set.
    """

    kind: str
    find: Callable[[Tree], Any]
    read: Callable[..., Any]


#: Value of ``--format`` -> format.
FORMATS: Mapping[str, Format] = {name: Format(module.KIND, module.find, module.read) for name, module in {
    'coco': coco, 'voc': voc, 'yolo': yolo, 'labelme': labelme, 'cvat': cvat, 'label-studio': label_studio,
    'csv': table, 'labels': label_images, 'folders': folders}.items()}


def recognise(root: str | Path, kind: str | None = None, train: str | None = None, val: str | None = None,
              crowds_as_objects: bool = False) -> Dataset:
    """Recognise the format of a folder of data, and read it.

    Args:
        root: The folder.
        kind: A key of :data:`FORMATS`; recognised if None. Folders of images are classes only if there is nothing else.
        train: Annotation file for training, in COCO format.
        val: Annotation file for validation, in COCO format.
        crowds_as_objects: Learn crowds and difficult objects.

    Raises:
        ConfigError: If ``train`` or ``val`` is given for another format.
        DatasetError: If the folder holds no data, data of several formats, or data that cannot be learned.
    """
    tree, notes = Tree(root), []
    if (train or val) and kind not in (None, 'coco'):
        raise ConfigError(f'--train and --val name annotation files of COCO; they do not go with --format {kind}')
    if train or val:
        return _finish(tree, build(coco.KIND, tree, coco.read(tree, {}, notes, train, val), notes, crowds_as_objects))
    chosen = _choose(tree, kind)
    if len(chosen) > 1:
        kinds = ' and '.join(FORMATS[name].kind for name in chosen)
        raise DatasetError(f'{tree.root} holds {kinds}; choose with --format {{{",".join(chosen)}}}')
    (name, found), = chosen.items()
    if not found:
        what = FORMATS[kind].kind if kind else 'annotations or class folders'
        raise DatasetError(f'{tree.root} has no {what}, but {counted(len(tree.files), "files")} (first '
                           f'{tree.relative(tree.files[0])}), {len(tree.images)} of them images; expected '
                           f'{", ".join(form.kind for form in FORMATS.values())}')
    read = FORMATS[name].read(tree, found, notes)
    return _finish(tree, read if isinstance(read, Dataset) else
                   build(FORMATS[name].kind, tree, read, notes, crowds_as_objects))


def _choose(tree: Tree, kind: str | None) -> dict[str, Any]:
    if kind:
        return {kind: FORMATS[kind].find(tree)}
    chosen = {name: found for name, form in FORMATS.items() if name != 'folders' and (found := form.find(tree))}
    if not chosen or [*chosen] == ['labels'] and label_images.could_be_classes(chosen['labels']):
        classes = folders.find(tree)
        if classes and 'labels' in chosen and label_images.are_jpegs(chosen['labels']):
            chosen.clear()
        if classes or not chosen:
            chosen['folders'] = classes
    return chosen


def _finish(tree: Tree, dataset: Dataset) -> Dataset:
    """Note what holds for every task: classes with too little, copies, images and files that are not used."""
    things = {'detection': 'objects', 'segmentation': 'pixels', 'classification': 'images'}[dataset.task]
    train, val = (dataset.splits[split] for split in ('train', 'val'))
    number, notes = counted(len(dataset.classes), 'classes'), dataset.notes
    least = 1 if dataset.task == 'segmentation' else FEW
    if few := sorted((i for i in range(len(dataset.classes)) if train.counts[i] < least), key=train.counts.__getitem__):
        notes.append(f'{len(few)} of {number} have fewer than {least} {things} to learn from: '
                     f'{shortened(f"{dataset.classes[i]} {train.counts[i]}" for i in few)}')
    if unseen := [name for i, name in enumerate(dataset.classes) if not val.counts[i]]:
        notes.append(f'{len(unseen)} of {number} have no {things} in the validation: {shortened(unseen)}')
    paths = [[sample.path for sample in split.samples] for split in (train, val)]
    both = set(paths[0]) & set(paths[1])
    if both and both == set(paths[1]):
        raise DatasetError(f'all {counted(len(both), "images")} for validation are also for training, first '
                           f'{min(both)}: are those for validation missing?')
    if both:
        notes.append(f'{named(both)} of the images are in training and in validation, which makes results too good')
    if copies := tree.copies(*paths):
        notes.append(f'{counted(len(copies), "images")} for validation are exact copies of images for training, which '
                     f'makes results too good: {shortened((f"{new} of {old}" for old, new in copies), 3)}')
    used = {*paths[0], *paths[1], *(sample.label for split in (train, val) for sample in split.samples)}
    if unused := set(tree.images) - used:
        notes.append(f'{named(unused)} of {counted(len(tree.images), "images")} are not used')
    notes += filter(None, [tree.skipped()])
    return dataset
