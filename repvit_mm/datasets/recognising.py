"""Recognises the format of a folder of data, and reads it."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DatasetError
from . import coco, folders, label_images, voc, yolo
from .found import Found
from .tree import Tree


class Format(NamedTuple):
    """A format of data.

    Attributes:
        kind: Its name.
        find: Gives what a tree holds of it; something empty if nothing.
        read: Reads what was found.
    """

    kind: str
    find: Callable[[Tree], Any]
    read: Callable[..., Found]


#: Value of ``--format`` -> format.
FORMATS: Mapping[str, Format] = {
    'coco': Format(coco.KIND, coco.find, coco.read),
    'voc': Format(voc.KIND, voc.find, voc.read),
    'yolo': Format(yolo.KIND, yolo.find, yolo.read),
    'labels': Format(label_images.KIND, label_images.find, label_images.read),
    'folders': Format(folders.KIND, folders.find, folders.read),
}


def recognise(root: str | Path, kind: str | None = None, train: str | None = None, val: str | None = None) -> Found:
    """Find out what data a folder holds, and read them.

    Args:
        root: The folder.
        kind: A key of :data:`FORMATS`; recognised if None. Folders of pictures are classes only if there is nothing
            else.
        train: For COCO's format, the annotations for training.
        val: For COCO's format, the annotations for validation.

    Raises:
        ConfigError: If ``train`` or ``val`` is given for another format.
        DatasetError: If the folder holds no data, data of several formats, or data that are not complete.
    """
    tree = Tree(root)
    if (train or val) and kind not in (None, 'coco'):
        raise ConfigError(f'--train and --val name annotation files of COCO; they do not go with --format {kind}')
    if train or val:
        return coco.read(tree, {}, train, val)
    if kind:
        chosen = {kind: FORMATS[kind].find(tree)}
    else:
        chosen = {name: found for name in ('coco', 'voc', 'yolo', 'labels') if (found := FORMATS[name].find(tree))}
        classes = folders.find(tree)
        if not chosen or (classes and [*chosen] == ['labels'] and label_images.could_be_classes(chosen['labels'])):
            chosen['folders'] = classes
    if len(chosen) > 1:
        kinds = ' and '.join(FORMATS[name].kind for name in chosen)
        raise DatasetError(f'{tree.root} holds {kinds}; choose with --format {{{",".join(chosen)}}}')
    (name, found), = chosen.items()
    if not found:
        what = FORMATS[kind].kind if kind else 'annotations or class folders'
        raise DatasetError(f'{tree.root} has no {what} that are known here, but {len(tree.files)} files '
                           f'(first {tree.relative(tree.files[0])}), {len(tree.pictures)} of them pictures; known are '
                           f'{", ".join(form.kind for form in FORMATS.values())}')
    return FORMATS[name].read(tree, found)
