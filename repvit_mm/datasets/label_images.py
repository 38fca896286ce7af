"""Pictures and label images: PNGs of one channel, whose values are the numbers of the classes."""
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..io.images import read_label_image
from .found import Found, Part, Picture
from .tree import Tree, check_readable, choose_splits, counted, named, sizes_of

KIND = 'label images'
IGNORED = 255
#: What the path of a folder of label images has.
_NAME = re.compile('label|mask|annotation|ann_dir|segmentation|(?<![a-z])gt(?![a-z])')
#: What the name of a folder of pictures can have, but hardly that of a class.
_PICTURES = re.compile('im(age|g)|photo|pic|jpe?g|rgb|frame|input|scan')
#: A folder of labels has to fit so large a part of a folder of pictures.
FITS = 0.5


class Pair(NamedTuple):
    """A folder of pictures and one of label images.

    Attributes:
        pictures: Stem -> picture.
        labels: Stem of the picture -> label image.
        ending: What the name of a label image has after the stem of its picture, with the suffix.
    """

    pictures: Mapping[str, Path]
    labels: Mapping[str, Path]
    ending: str


def find(tree: Tree) -> list[Pair]:
    """Folders of label images, with the folders of their pictures."""
    pairs = []
    for folder, labels in tree.folders.items():
        if not _may_hold_labels(tree, folder, labels):
            continue
        others = [(other, pictures) for other, pictures in tree.folders.items()
                  if other != folder and not _is_named_labels(tree, other)]
        matches = [(_match(pictures, labels), other, pictures) for other, pictures in others]
        matches = [match for match in matches if match[0] and len(match[0][0]) >= FITS * len(match[2])]
        if matches:
            # Splits can have files of the same names: the folder whose name has most in common.
            (fitting, ending), _, pictures = max(matches, key=lambda match: (
                _alike(tree, match[1], folder), len(match[0][0])))
            pairs.append(Pair(pictures, fitting, ending))
    return pairs


def _is_named_labels(tree: Tree, folder: Path) -> bool:
    return _NAME.search(tree.relative(folder).lower()) is not None


def _may_hold_labels(tree: Tree, folder: Path, pictures: Mapping[str, Path]) -> bool:
    """Whether a folder is called like labels and holds PNGs; their channels are checked when they are read."""
    first = next(iter(pictures.values()))
    return _is_named_labels(tree, folder) and first.suffix.lower() in ('.png', '.bmp', '.tif', '.tiff')


def _match(pictures: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[dict[str, Path], str] | None:
    """Stem of a picture -> its label, and what all names of labels have after that stem."""
    names = {path.name: path for path in labels.values()}
    endings = Counter(name[len(stem):] for stem in list(pictures)[:20] for name in names if name.startswith(stem))
    for ending, _ in sorted(endings.items(), key=lambda item: len(item[0])):
        if fitting := {stem: names[stem + ending] for stem in pictures if stem + ending in names}:
            return fitting, ending
    return None


def _alike(tree: Tree, one: Path, other: Path) -> int:
    """How many folders two paths have in common, counted from both ends, and whether they are of the same split."""
    parts = [tree.relative(path).split('/') for path in (one, other)]
    ends = len(os.path.commonprefix([list(reversed(part)) for part in parts]))
    return ends + len(os.path.commonprefix(parts)) + (tree.split_of(one) == tree.split_of(other))


def could_be_classes(pairs: Sequence[Pair]) -> bool:
    """Whether the folders may be classes, such as ``mask`` and ``glasses``, whose pictures are numbered alike."""
    pictures = [next(iter(pair.pictures.values())).parent for pair in pairs]
    return all(pair.ending[0] == '.' and _folder(pair).parent == folder.parent
               and not _PICTURES.search(folder.name.lower()) for pair, folder in zip(pairs, pictures, strict=True))


def read(tree: Tree, pairs: Sequence[Pair]) -> Found:
    """Read label images.

    Where all values are 0 and 255, 255 is a class, too, and copies with 0 and 1 are written.

    Raises:
        DatasetError: If a label cannot be read, has several channels, or has another size than its picture.
    """
    notes: list[str] = []
    by_split = {}
    for pair in pairs:
        split = tree.split_of(next(iter(pair.labels.values())))
        if split in by_split:
            raise DatasetError(f'{tree.root} has several folders of label images for '
                               f'{split or "the same pictures"}: {_folder(by_split[split])}, {_folder(pair)}; give a '
                               'folder with one of them')
        by_split[split] = pair
    _check_files(tree, by_split)
    histograms = _histograms([path for pair in by_split.values() for path in pair.labels.values()])
    _check_sizes(by_split, histograms)
    pixels = sum(counts for counts, _ in histograms.values())
    values = np.flatnonzero(pixels)
    binary = values.tolist() == [0, IGNORED]
    number = 2 if binary else int(values[values != IGNORED].max(initial=-1)) + 1
    if number < 1:
        raise DatasetError(f'all {len(histograms)} label images hold the ignored value {IGNORED} only')
    classes = _classes(tree, number, pixels, binary, notes)
    found = Found(KIND, 'segmentation', tree.root, classes, {}, binary=binary, notes=notes)
    found.parts = _parts(tree, by_split, histograms, found)
    _note_classes(classes, found.parts, notes)
    return found


def _folder(pair: Pair) -> Path:
    return next(iter(pair.labels.values())).parent


def _check_files(tree: Tree, by_split: Mapping[str | None, Pair]) -> None:
    for pair in by_split.values():
        first = next(iter(pair.pictures.values()))
        if without := set(pair.pictures) - set(pair.labels):
            paths = [pair.pictures[stem] for stem in without]
            raise DatasetError(f'{named(paths)} of {counted(len(pair.pictures), "pictures")} have no label image; '
                               'add them, or move the pictures elsewhere')
        if others := [path for path in pair.pictures.values() if path.suffix != first.suffix]:
            raise DatasetError(f'{named(others)} of {counted(len(pair.pictures), "pictures")} do not end in '
                               f'{first.suffix}, as the others do; mmseg reads one kind of files')
        labels = set(tree.folders[_folder(pair)].values())
        if lone := labels - set(pair.labels.values()):
            raise DatasetError(f'{named(lone)} of {counted(len(labels), "label images")} have no picture in '
                               f'{first.parent}; add them, or move the label images elsewhere')


def _histograms(paths: Sequence[Path]) -> dict[Path, tuple[np.ndarray, tuple[int, int]]]:
    """Label image -> number of pixels of each value, int (256,), and its width and height."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(_histogram, paths), strict=True))


def _histogram(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    label = read_label(path)
    return np.bincount(label.ravel(), minlength=256), label.shape[::-1]


def read_label(path: Path) -> np.ndarray:
    """The values of a label image, uint8 (H, W).

    Raises:
        DatasetError: If it cannot be read, or has several channels or larger values.
    """
    label = read_label_image(path)
    if label.min(initial=0) < 0 or label.max(initial=0) > 255:
        raise DatasetError(f'{path} holds {label.max()}; values of a label image are 0 to 255')
    return label.astype(np.uint8)


def _check_sizes(by_split: Mapping[str | None, Pair], histograms: Mapping[Path, tuple]) -> None:
    for pair in by_split.values():
        sizes = sizes_of([pair.pictures[stem] for stem in pair.labels])
        check_readable(sizes)
        for stem, label in pair.labels.items():
            size = sizes.get(pair.pictures[stem])
            width, height = histograms[label][1]
            if size and size != (width, height):
                raise DatasetError(f'{pair.pictures[stem]} is {size[0]} x {size[1]} pixels, but its label image '
                                   f'{label} is {width} x {height}')


def _classes(tree: Tree, number: int, pixels: np.ndarray, binary: bool, notes: list[str]) -> list[str]:
    names = tree.class_names()
    if binary:
        notes.append('all values are 0 and 255: 255 is taken for a class, not for ignored pixels, and copies of the '
                     'label images with 1 in its place are written')
    elif unused := np.flatnonzero(pixels[:number] == 0).tolist():
        notes.append(f'{len(unused)} of the values 0-{number - 1} do not occur: {", ".join(map(str, unused[:10]))}'
                     f'{", ..." * (len(unused) > 10)}')
    if names and len(names) == number:
        return names
    if names:
        notes.append(f'there are {counted(len(names), "names")} of classes, but the values are 0-{number - 1}; change '
                     'the names in the config')
    else:
        notes.append('the names of the classes are not known: write them into the config, in the order of the values')
    return ['background', 'object'] if binary else [f'class {i}' for i in range(number)]


def _parts(tree: Tree, by_split: Mapping[str | None, Pair], histograms: Mapping[Path, tuple],
           found: Found) -> dict[str, Part]:
    stems = {split: [(pair, stem) for stem in sorted(pair.labels)] for split, pair in by_split.items()}
    chosen = choose_splits(stems, found.notes)
    parts = {}
    for split, items in chosen.items():
        pair = items[0][0]
        first = next(iter(pair.pictures.values()))
        settings = dict(img_suffix=first.suffix, seg_map_suffix=pair.ending, data_prefix=dict(
            img_path=tree.relative(first.parent), seg_map_path=tree.relative(_folder(pair))))
        if len(by_split) == 1:
            found.files[f'{split}.txt'] = ''.join(f'{stem}\n' for _, stem in items)
            settings['ann_file'] = f'{{{{ fileDirname }}}}/{split}.txt'
        if found.binary:
            settings['data_prefix']['seg_map_path'] = f'{{{{ fileDirname }}}}/labels/{split}'
            settings['seg_map_suffix'] = '.png'
            found.files.update({f'labels/{split}/{stem}.png': _as_one(pair.labels[stem]) for _, stem in items})
        sizes = sizes_of([pair.pictures[stem] for _, stem in items])
        pictures = [Picture(pair.pictures[stem], sizes.get(pair.pictures[stem]), label=pair.labels[stem])
                    for _, stem in items]
        pixels = sum(histograms[picture.label][0] for picture in pictures)
        if found.binary:
            pixels[[1, IGNORED]] = pixels[IGNORED], 0
        parts[split] = Part(pictures, Counter({i: int(pixels[i]) for i in range(len(found.classes))}), settings)
    return parts


def _as_one(path: Path) -> bytes:
    buffer = BytesIO()
    Image.fromarray((read_label(path) == IGNORED).astype(np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


def _note_classes(classes: Sequence[str], parts: Mapping[str, Part], notes: list[str]) -> None:
    for split, part in parts.items():
        if missing := [classes[i] for i in range(len(classes)) if not part.counts[i]]:
            notes.append(f'{split} has no pixels of {", ".join(missing[:10])}')
