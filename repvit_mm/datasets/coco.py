"""Annotations in COCO's format, with the pictures that they are for."""
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError, shortened
from ..io.coco import check_coco
from ..io.files import read_json
from .found import Found
from .objects import Source, find_objects
from .tree import Tree, choose_splits, split_in

KIND = 'COCO JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with objects in COCO's format, and their content, as large ones take long to read.

    Raises:
        DatasetError: If a file that is named like a split is damaged, or all JSON files are.
    """
    found, damaged = {}, []
    for path in tree.with_suffix('.json'):
        try:
            content = read_json(path)
        except DatasetError as error:
            if split_in(path.stem):  # a part of the other file must not take its place unnoticed
                raise
            damaged.append(error)
            continue
        if _has_objects(content):
            found[path] = content
    if damaged and not found:
        raise damaged[0]
    return found


def read(tree: Tree, files: Mapping[Path, Any], train: str | None = None, val: str | None = None) -> Found:
    """Read annotations in COCO's format.

    Args:
        tree: The files.
        files: What :func:`find` returned.
        train: Choose this file for training, a path as such or below the folder.
        val: Choose this file for validation.

    Raises:
        DatasetError: If it is not clear which files to take, or they do not fit the pictures.
    """
    notes: list[str] = []
    if train or val:
        chosen = {split: _named(tree, name) for split, name in (('train', train), ('val', val)) if name}
    else:
        chosen = _by_name(tree, list(files), notes)
    contents = {split: _checked(path, files.get(path) or read_json(path), notes) for split, path in chosen.items()}
    folders = {split: _folder(tree, split, chosen[split], contents[split]) for split in chosen}
    if len(chosen) == 2:
        sources = {split: Source(str(chosen[split]), contents[split], folders[split], _setting(tree, chosen[split]))
                   for split in chosen}
        return find_objects(KIND, tree, sources, notes)
    (split, content), = contents.items()
    return split_content(KIND, tree, {None: content['images']}, content, str(chosen[split]), folders[split], notes)


def split_content(kind: str, tree: Tree, images: Mapping[str | None, list[dict]], content: Mapping[str, Any], name: str,
                  folder: Path, notes: list[str]) -> Found:
    """Put together a data set whose annotations are written into a file for each split.

    Args:
        kind: Name of the format.
        tree: The files.
        images: Split -> entries of the images.
        content: Annotations and categories of all of them, in COCO's format.
        name: Where they are from, for messages.
        folder: Folder of the pictures.
        notes: What is known already.

    Raises:
        DatasetError: If an entry is malformed; see :func:`repvit_mm.datasets.objects.find_objects`, too.
    """
    notes += check_coco({**content, 'images': sum(images.values(), [])}, name)
    parts = {}
    for split, entries in choose_splits(images, notes).items():
        ids = {entry['id'] for entry in entries}
        parts[split] = {**content, 'images': entries, 'annotations': [
            annotation for annotation in content.get('annotations', []) if annotation['image_id'] in ids]}
    found = find_objects(kind, tree, {split: Source(f'{name} ({split})', part, folder,
                                                    f'{{{{ fileDirname }}}}/{split}.json')
                                      for split, part in parts.items()}, notes)
    found.files.update({f'{split}.json': json.dumps(part) for split, part in parts.items()})
    return found


def _has_objects(content: Any) -> bool:
    """Whether it looks like boxes or masks in COCO's format, and not like captions, panoptic segments or keypoints."""
    if not (isinstance(content, Mapping) and {'images', 'annotations', 'categories'} <= content.keys()):
        return False
    annotations = content['annotations']
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return isinstance(first, Mapping) and not {'caption', 'segments_info', 'keypoints'} & first.keys()


def _by_name(tree: Tree, files: list[Path], notes: list[str]) -> dict[str, Path]:
    """The files for training and validation, or the only file, by their names."""
    if len(files) == 1:
        return dict(train=files[0])
    by_split = defaultdict(list)
    for path in files:
        by_split[tree.split_of(path)].append(path)
    val = 'val' if by_split['val'] else 'test'
    if len(by_split['train']) != 1 or len(by_split[val]) != 1:
        raise DatasetError(f'{tree.root} has several annotation files: {shortened(map(tree.relative, files))}; choose '
                           'with --train FILE --val FILE')
    chosen = dict(train=by_split['train'][0], val=by_split[val][0])
    if left := sorted(set(files) - set(chosen.values())):
        notes.append(f'not used: {shortened(map(tree.relative, left))}')
    return chosen


def _named(tree: Tree, name: str) -> Path:
    path = Path(name).expanduser()
    below = next((file for file in (path, tree.root / path) if file.is_file()), None)
    if below is None:
        raise DatasetError(f'there is no annotation file {name}, neither here nor in {tree.root}')
    return below


def _checked(path: Path, content: Any, notes: list[str]) -> dict[str, Any]:
    if not _has_objects(content):
        raise DatasetError(f"{path} has no objects in COCO's format: images, annotations and categories are expected")
    notes += check_coco(content, str(path))
    return content


def _setting(tree: Tree, path: Path) -> str:
    """A file, as the data set of a config finds it."""
    return tree.relative(path) if path.is_relative_to(tree.root) else str(path.absolute())


def _folder(tree: Tree, split: str, file: Path, content: Mapping[str, Any]) -> Path:
    """The folder that the file names of the images start from.

    Where splits have files of the same names, it is the one that is named like the split, even if pictures are missing
    in it; otherwise that with most of the pictures.
    """
    by_name = defaultdict(list)
    for path in tree.pictures:
        by_name[path.name].append(str(path))
    votes = Counter()
    names = [image['file_name'] for image in content['images']]
    for name in names:
        votes.update(path[:-len(name) - 1] for path in by_name[Path(name).name] if path.endswith(f'/{name}'))
    if not votes:
        first = f', first {names[0]}' if names else ''
        raise DatasetError(f'none of the {len(names)} pictures of {file} is in {tree.root}{first}')
    most = max(votes.values())
    wanted = tree.split_of(file) or split
    return min((Path(folder) for folder, count in votes.items() if 2 * count >= most), key=lambda folder: (
        tree.split_of(folder) != wanted, -votes[str(folder)], folder != file.parent, len(folder.parts)))
