"""Annotations in COCO format."""
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError, shortened
from ..io.coco import check_annotations
from ..io.files import read_json
from .objects import Part, split_part
from .tree import Tree, counted, split_in

KIND = 'COCO JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with objects in COCO format, and their content.

    Raises:
        DatasetError: If a file named like a split is damaged, or all JSON files are.
    """
    found = {path: content for path, content in tree.jsons.items() if _has_objects(content)}
    for path, content in tree.jsons.items():
        if isinstance(content, DatasetError) and (split_in(path.stem) or not found):
            raise content
    return found


def read(tree: Tree, files: Mapping[Path, Any], notes: list[str], train: str | None = None,
         val: str | None = None) -> dict[str, Part]:
    """Read annotations in COCO format.

    Args:
        tree: The files.
        files: What :func:`find` returned.
        notes: Gets lines for the user.
        train: File for training, a path as such or below the folder.
        val: File for validation.

    Raises:
        DatasetError: If it is not clear which files to take, or they do not fit the images.
    """
    if train or val:
        chosen = {split: _named(tree, name) for split, name in (('train', train), ('val', val)) if name}
    else:
        chosen = _by_name(tree, list(files), notes)
    parts = {split: _part(tree, tree.split_of(path) or (split if len(chosen) == 2 else None), path,
                          files.get(path) or read_json(path), notes) for split, path in chosen.items()}
    if len(parts) == 2:
        return parts
    (part,) = parts.values()
    return split_part(part, notes)


def _has_objects(content: Any) -> bool:
    """Whether it holds boxes or masks, and not captions, panoptic segments or keypoints."""
    if not (isinstance(content, Mapping) and {'images', 'annotations', 'categories'} <= content.keys()):
        return False
    annotations = content['annotations']
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return isinstance(first, Mapping) and not {'caption', 'segments_info'} & first.keys() and not first.get('keypoints')


def _by_name(tree: Tree, files: list[Path], notes: list[str]) -> dict[str, Path]:
    """The files for training and validation by their names, or the only file."""
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
    if unused := sorted(set(files) - set(chosen.values())):
        notes.append(f'not used: {shortened(map(tree.relative, unused))}')
    return chosen


def _named(tree: Tree, name: str) -> Path:
    path = Path(name).expanduser()
    for file in (path, tree.root / path):
        if file.is_file():
            return file
    raise DatasetError(f'there is no annotation file {name}, neither here nor in {tree.root}')


def _part(tree: Tree, split: str | None, file: Path, content: Any, notes: list[str]) -> Part:
    """A file with the folder of its images; names that are not paths below one folder are corrected in a copy."""
    if not _has_objects(content):
        raise DatasetError(f'{file} has no objects in COCO format: expected images, annotations and categories')
    check_annotations(content, str(file))
    names = [image['file_name'] for image in content['images']]
    images = {name: tree.find_image(name, file.parent, split) for name in names}
    if not any(images.values()):  # two files may split one folder
        images = {name: tree.find_image(name, file.parent) for name in names}
    if not any(images.values()):
        raise DatasetError(f'none of the {len(names)} images of {file} is in {tree.root}'
                           f'{f", first {names[0]}" if names else ""}')
    if missing := [name for name, path in images.items() if path is None]:
        raise DatasetError(f'{len(missing)} ({shortened(missing, 3)}) of {counted(len(images), "images")} of {file} '
                           'are missing; add them, or remove them from the annotations')
    folders = Counter(str(path)[:-len(name) - 1] if str(path).endswith(f'/{name}') else None
                      for name, path in images.items())
    if len(folders) == 1 and None not in folders:
        folder, = folders
        ann_file = tree.relative(file) if file.is_relative_to(tree.root) else str(file.absolute())
        return Part(str(file), content, Path(folder), ann_file)
    if None in folders:
        odd = next(name for name, path in images.items() if not str(path).endswith(f'/{name}'))
        notes.append(f'{file}: {folders[None]} of {counted(len(images), "images")} are found by the last part of their '
                     f'name, as {odd} in {tree.relative(images[odd])}')
    content = {**content, 'images': [{**image, 'file_name': tree.relative(images[image['file_name']])}
                                     for image in content['images']]}
    return Part(str(file), content, tree.root)
