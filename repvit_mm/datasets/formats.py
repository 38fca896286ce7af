"""The formats of annotations, and which of them a folder holds."""
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, DatasetError, collect, shortened
from ..io.image_files import choose_images, skipped_files
from . import coco, cvat, folders, label_images, label_studio, labelme, table, voc, yolo
from .dataset import Dataset
from .objects import build
from .tree import Tree, copies, counted, named

#: Value of ``--format`` -> a module with ``KIND``, the name of the format; ``find``, which returns its files in a tree;
#: and ``read``, which reads these, with a list for notes, and returns the annotations of each split, or for images
#: without objects the data set.
DATA_FORMATS: Mapping[str, ModuleType] = {
    'coco': coco, 'voc': voc, 'yolo': yolo, 'labelme': labelme, 'cvat': cvat, 'label-studio': label_studio,
    'csv': table, 'labels': label_images, 'folders': folders}
#: Suffixes of files that are neither images nor reported.
KNOWN = ('.json', '.xml', '.txt', '.csv', '.yaml', '.yml', '.names', '.data', '.cache', '.md', '.html', '.py')
#: Classes with fewer objects or images are listed.
FEW = 10


def recognise(root: str | Path, kind: str | None = None, train: str | None = None, val: str | None = None,
              crowds_as_objects: bool = False) -> Dataset:
    """Recognise the format of a folder of data, and read it.

    Args:
        root: The folder.
        kind: A key of :data:`DATA_FORMATS`; recognised if None. Folders of images are classes only if there is nothing
            else.
        train: Annotation file for training, in COCO format.
        val: Annotation file for validation, in COCO format.
        crowds_as_objects: Learn crowds and difficult objects.

    Raises:
        ConfigError: If ``train`` or ``val`` is given for another format.
        DatasetError: If the folder holds no data, data of several formats, or data that cannot be learned, with all
            kinds of faults.
    """
    tree, notes = Tree(root), []
    if (train or val) and kind not in (None, 'coco'):
        raise ConfigError(f'--train and --val take COCO annotation files, which are unsupported with --format {kind}')
    if train or val:
        form, options = coco, ({}, notes, train, val)
    else:
        chosen = _choose(tree, kind)
        if len(chosen) > 1:
            kinds = ' and '.join(DATA_FORMATS[name].KIND for name in chosen)
            raise DatasetError(f'{tree.root} holds {kinds}; choose with --format {{{",".join(chosen)}}}')
        (name, found), = chosen.items()
        form = DATA_FORMATS[name]
        if not found:
            raise DatasetError(f'{tree.root} has no {form.KIND if kind else "annotations or class folders"}, but '
                               f'{counted(len(tree.files), "files")} (first {tree.relative(tree.files[0])}), '
                               f'{len(tree.images)} of them images; expected '
                               f'{", ".join(form.KIND for form in DATA_FORMATS.values())}')
        options = found, notes
    with collect(tree.faults):
        read = form.read(tree, *options)
        dataset = read if isinstance(read, Dataset) else build(form.KIND, tree, read, notes, crowds_as_objects)
        dataset = _finish(tree, dataset)
    if tree.faults:
        tree.look(tree.images)
    damaged = [str(path) for path in tree.damaged if not any(str(path) in fault for fault in tree.faults)]
    if damaged and form is not folders:
        tree.faults.append(f'{len(damaged)} of {counted(len(tree.images), "images")} cannot be decoded: '
                           f'{shortened(damaged)}; repair them, or remove them and their annotations')
    if len(faults := tree.faults) > 1:
        faults = [f'({number}) {fault}' for number, fault in enumerate(faults, 1)]
    if faults:
        raise DatasetError(' '.join(faults))
    return dataset


def _choose(tree: Tree, kind: str | None) -> dict[str, Any]:
    if kind:
        return {kind: DATA_FORMATS[kind].find(tree)}
    chosen = {name: found for name, form in DATA_FORMATS.items() if name != 'folders' and (found := form.find(tree))}
    if not chosen or [*chosen] == ['labels'] and label_images.could_be_classes(chosen['labels']):
        classes = folders.find(tree)
        if classes and 'labels' in chosen and label_images.are_jpegs(chosen['labels']):
            chosen.clear()
        if classes or not chosen:
            chosen['folders'] = classes
    return chosen


def _finish(tree: Tree, dataset: Dataset) -> Dataset:
    """Add the notes of every task: rare classes, copies, unused images and files."""
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
        notes.append(f'{named(both)} of the images are in training and in validation, which inflates results')
    if same := copies(*paths):
        notes.append(f'validation has exact copies of {counted(len(same), "images")} for training, which inflates '
                     f'results: {shortened((f"{new} of {old}" for old, new in same), 3)}')
    used = {*paths[0], *paths[1], *(sample.label for split in (train, val) for sample in split.samples)}
    if unused := set(tree.images) - used - tree.damaged.keys():
        notes.append(f'{named(unused)} of {counted(len(tree.images), "images")} are not used')
    if skipped := skipped_files(tree.root, choose_images(tree.files, KNOWN)[1]):
        notes.append(skipped)
    return dataset
