"""Annotations in COCO format."""
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DatasetError, collect, shortened
from ..io.coco import check_coco
from ..io.coco_images import match_images
from ..io.files import read_json
from .objects import Part, split_part
from .tree import Tree, split_in

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
        files: Result of :func:`find`.
        notes: Gets lines for the user.
        train: File for training, a path as such or below the folder.
        val: File for validation.

    Raises:
        ConfigError: If it is not clear which files to take.
        DatasetError: If a file is malformed.
    """
    if train or val:
        named = {split: Path(name).expanduser() for split, name in (('train', train), ('val', val)) if name}
        chosen = {split: path if path.is_file() else tree.root / path for split, path in named.items()}
    else:
        chosen = _by_name(tree, list(files), notes)
    parts = {}
    for split, path in chosen.items():
        with collect(tree.faults):
            parts[split] = _part(tree, split, path, files.get(path) or read_json(path), notes)
    if len(parts) < len(chosen):
        tree.check()
    return parts if len(parts) == 2 else split_part(*parts.values(), {}, notes)


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
        raise ConfigError(f'{tree.root} has several annotation files: {shortened(map(tree.relative, files))}; choose '
                          'with --train FILE --val FILE')
    chosen = dict(train=by_split['train'][0], val=by_split[val][0])
    if unused := sorted(set(files) - set(chosen.values())):
        notes.append(f'not used: {shortened(map(tree.relative, unused))}')
    return chosen


def _part(tree: Tree, split: str, file: Path, content: Any, notes: list[str]) -> Part:
    """A file with the folder of its images; if something is repaired, a copy is written."""
    if not _has_objects(content):
        raise DatasetError(f'{file} has no objects in COCO format: expected images, annotations and categories')
    repaired = check_coco(content, str(file))
    folder = _folder(tree, tree.split_of(file) or split, content) or tree.root
    with collect(tree.faults):
        repaired += match_images(content, str(file), folder)
    notes += repaired
    ann_file = tree.relative(file) if file.is_relative_to(tree.root) else str(file.absolute())
    return Part(str(file), content, folder, None if repaired else ann_file)


def _folder(tree: Tree, split: str, content: Mapping[str, Any]) -> Path | None:
    """The folder that the file names of the images start from; None if they are no paths below one.

    Where splits have files of the same names, it is the one named like the split, even if images are missing in it;
    otherwise that with most of the images.
    """
    by_name, votes = defaultdict(list), Counter()
    for path in tree.images:
        by_name[path.name].append(str(path))
    for name in [image['file_name'] for image in content['images']]:
        votes.update(path[:-len(name) - 1] for path in by_name[Path(name).name] if path.endswith(f'/{name}'))
    enough = [Path(folder) for folder, count in votes.items() if 2 * count >= max(votes.values())]
    return min(enough, default=None, key=lambda folder: (
        tree.split_of(folder) != split, -votes[str(folder)], len(folder.parts)))
