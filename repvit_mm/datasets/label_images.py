"""Images and label images: one channel with the numbers of classes, grey levels, or colours of a table."""
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..errors import DatasetError, collect, shortened
from ..io.coco_images import EXIF
from ..io.files import read_text
from ..io.images import read_label_image
from .dataset import Dataset, Sample, Split
from .tree import Tree, choose_splits, counted, named

KIND = 'label images'
IGNORED = 255
#: Word in the path of a folder of label images.
_NAME = re.compile('label|mask|annotation|ann_dir|segmentation|(?<![a-z])gt(?![a-z])')
#: Word in the name of a folder of images that is unlikely in a class name.
_IMAGES = re.compile('im(age|g)|photo|pic|jpe?g|rgb|frame|input|scan')
#: A line of a colour table: name and R, G, B, in either order.
_COLOUR = re.compile(r'\s*(?P<name>[^\d,:;#][^,:;]*?)\s*[,:;\s]\s*(?P<rgb>\d+[,\s]+\d+[,\s]+\d+)\s*(?:[:,].*)?$|'
                     r'\s*(?P<rgb2>\d+[,\s]+\d+[,\s]+\d+)[,:;\s]+(?P<name2>\D.*?)\s*$')
#: A folder of labels has to match this part of a folder of images.
FITS = 0.5
#: Part of the value of every colour, and of a grey one after division by its level.
COLOUR, GREY = 1 << 24, 1 << 16 | 1 << 8 | 1
#: From this number of values on, they are indices, unless most of them are blurred borders.
DENSE = 20


class Pair(NamedTuple):
    """A folder of images and one of label images.

    Attributes:
        images: Stem -> image.
        labels: Stem of the image -> label image.
        ending: What follows the stem in the name of a label image.
    """

    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    ending: str

    @property
    def folder(self) -> Path:
        """Folder of the label images."""
        return next(iter(self.labels.values())).parent


class Labels(NamedTuple):
    """Pixel values and their classes.

    Attributes:
        values: Sorted, int (N,): those of a single channel, or ``COLOUR | R << 16 | G << 8 | B``.
        classes: Class index of each value, uint8 (N,).
    """

    values: np.ndarray
    classes: np.ndarray

    def of(self, values: Sequence[int] | np.ndarray) -> np.ndarray:
        """Class indices of values."""
        return self.classes[np.searchsorted(self.values, values)]

    def read(self, path: Path) -> np.ndarray:
        """Class indices of a label image, uint8 (H, W)."""
        return self.of(_read(path))


def find(tree: Tree) -> list[Pair]:
    """Folders of label images with the folders of their images."""
    pairs = []
    for folder, labels in tree.folders.items():
        if not _NAME.search(tree.relative(folder).lower()):
            continue
        matches = [(_match(images, labels), other, images) for other, images in tree.folders.items()
                   if other != folder and not _NAME.search(tree.relative(other).lower())]
        matches = [match for match in matches if match[0] and len(match[0][0]) >= FITS * len(match[2])]
        if matches:
            # Splits can have files of the same names: the folder whose name has most in common.
            (fitting, ending), _, images = max(matches, key=lambda match: (
                _alike(tree, match[1], folder), len(match[0][0])))
            pairs.append(Pair(images, fitting, ending))
    return pairs


def _match(images: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[dict[str, Path], str] | None:
    """Stem of an image -> its label image, and what follows the stem in all names of label images."""
    names = {path.name: path for path in labels.values()}
    endings = Counter(name[len(stem):] for stem in list(images)[:20] for name in names if name.startswith(stem))
    for ending in sorted(endings, key=len):
        if fitting := {stem: names[stem + ending] for stem in images if stem + ending in names}:
            return fitting, ending
    return None


def _alike(tree: Tree, one: Path, other: Path) -> int:
    """How many folders two paths have in common from both ends, and whether they are of the same split."""
    parts = [tree.relative(path).split('/') for path in (one, other)]
    ends = len(os.path.commonprefix([list(reversed(part)) for part in parts]))
    return ends + len(os.path.commonprefix(parts)) + (tree.split_of(one) == tree.split_of(other))


def could_be_classes(pairs: Sequence[Pair]) -> bool:
    """Whether the folders may be classes such as ``mask`` and ``glasses``, whose images are numbered alike."""
    images = [next(iter(pair.images.values())).parent for pair in pairs]
    return all(pair.ending[0] == '.' and pair.folder.parent == folder.parent
               and not _IMAGES.search(folder.name.lower()) for pair, folder in zip(pairs, images, strict=True))


def are_jpegs(pairs: Sequence[Pair]) -> bool:
    """Whether all labels are JPEGs, which cannot hold labels."""
    return all(pair.ending.lower().endswith(('.jpg', '.jpeg')) for pair in pairs)


def read(tree: Tree, pairs: Sequence[Pair], notes: list[str]) -> Dataset:
    """Read label images. Where their values are not class indices, copies with indices are written.

    Raises:
        DatasetError: If a label image is missing, cannot be read, or has another size than its image, or if the folders
            of the splits are not known.
    """
    by_split = {tree.split_of(pair.folder): pair for pair in pairs}
    if len(pairs) > 1 and (len(by_split) < len(pairs) or not ('train' in by_split and {'val', 'test'} & {*by_split})):
        raise DatasetError(f'{tree.root} has several folders of label images: '
                           f'{shortened(str(pair.folder) for pair in pairs)}; expected one, or one for each of train '
                           'and val')
    for pair in pairs:
        _check_files(tree, pair)
    with collect(tree.faults):
        counts = _count(tree, by_split.values())
    tree.check()
    classes, labels = _classes(tree, counts, notes)
    present = {path: set(labels.of([*pixels]).tolist()) - {IGNORED} for path, pixels in counts.items()}
    items = {split: [(pair, stem) for stem in sorted(pair.labels)] for split, pair in by_split.items()}
    chosen = choose_splits(items, lambda item: present[item[0].labels[item[1]]], notes)
    dataset = Dataset(KIND, 'segmentation', tree.root, classes, {}, read_labels=labels.read, notes=notes)
    dataset.splits = {split: _split(tree, split, items, counts, labels, len(by_split) == 1, dataset.files)
                      for split, items in chosen.items()}
    return dataset


def _check_files(tree: Tree, pair: Pair) -> None:
    if are_jpegs([pair]):
        tree.faults.append(f'the label images in {pair.folder} are JPEGs, whose compression changes values; save them '
                           'as PNG')
    first = next(iter(pair.images.values()))
    for files, fault in (
            ([path for stem, path in pair.images.items() if stem not in pair.labels], 'have no label image'),
            (set(tree.folders[pair.folder].values()) - set(pair.labels.values()), f'have no image in {first.parent}'),
            ([path for path in pair.images.values() if path.suffix != first.suffix],
             f'do not end in {first.suffix}, as the others do, and mmseg reads one kind of files')):
        if files:
            tree.faults.append(f'{named(files)} of {counted(len(pair.images), "images")} and their label images '
                               f'{fault}; add, rename or move them')


def _read(path: Path) -> np.ndarray:
    """The values of a label image (H, W), see :class:`Labels`; uint8 for a single channel, else int32."""
    values = read_label_image(path, colours=True)
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, 2)
        return COLOUR | values.astype(np.int32) @ np.int32([1 << 16, 1 << 8, 1])
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise DatasetError(f'{path} holds {values.max()}; expected values of 0 to 255')
    return values.astype(np.uint8)


def _count(tree: Tree, pairs: Collection[Pair]) -> dict[Path, dict[int, int]]:
    """Label image -> value -> number of pixels; another size than that of its image is refused."""
    images = {label: pair.images[stem] for pair in pairs for stem, label in pair.labels.items()}
    sizes = tree.look(images.values())

    def count(path: Path) -> dict[int, int]:
        values = _read(path)
        size = sizes.get(images[path])
        if size and values.shape[::-1] != size:
            raise DatasetError('{} is {} x {} pixels, but its label image {} is {} x {}'.format(
                images[path], *size, path, *values.shape[::-1]) + EXIF * (values.shape == size))
        if values.dtype == np.uint8:  # much faster
            return {i: number for i, number in enumerate(np.bincount(values.ravel()).tolist()) if number}
        return dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(images, pool.map(count, images), strict=True))


def _classes(tree: Tree, counts: Mapping[Path, Mapping[int, int]], notes: list[str]) -> tuple[list[str], Labels]:
    """Class names, and the class of each value."""
    total = Counter()
    for pixels in counts.values():
        total.update(pixels)
    values = np.array(sorted(total))
    levels = values & 255
    if ((values > 255) & (values != (COLOUR | levels * GREY))).any():
        table = _colours(tree)
        if unknown := [value for value in values.tolist() if value not in table]:
            colours = shortened(str((value >> 16 & 255, value >> 8 & 255, value & 255)) for value in unknown)
            raise DatasetError(f'{tree.root}: the label images hold {counted(len(unknown), "colours")} without a '
                               f'class: {colours}; write them into {tree.root}/labelmap.txt, each in a line name:R,G,B')
        names = list(dict.fromkeys(table.values()))
        return names, Labels(values, np.uint8([names.index(table[value]) for value in values.tolist()]))
    names, used = tree.class_names() or [], sorted({*levels.tolist()})
    if used == [IGNORED]:
        raise DatasetError(f'all {len(counts)} label images hold the ignored value {IGNORED} only')
    number = max({*used} - {IGNORED}) + 1
    strong = used if number <= max(len(names), 4 * min(len(used), DENSE)) else _strong(counts)
    if strong == [0, IGNORED] or max({*strong} - {IGNORED}) >= max(4 * len(strong), len(names)):  # no indices
        nearest = np.abs(np.subtract.outer(levels, strong)).argmin(1).astype(np.uint8)
        blurred = f', and {len(used) - len(strong)} other levels, as of blurred borders, become the nearest of them'
        notes.append(f'the label images hold grey levels: {shortened(map(str, strong))} become the classes 0 to '
                     f'{len(strong) - 1}{blurred * (len(used) > len(strong))}; copies with these are written')
        given = names if len(names) == len(strong) else ['background', 'object'] if len(strong) == 2 else [
            f'level {level}' for level in strong]
        return given, Labels(values, nearest)
    if unused := sorted({*range(number)} - {*used}):
        notes.append(f'{len(unused)} of the values 0 to {number - 1} do not occur: {shortened(map(str, unused))}')
    if len(names) < number:
        notes.append(f'there are {counted(len(names), "class names")} for the values 0 to {number - 1}; change the '
                     'names in the config' if names else 'the class names are not known: write them into '
                     'classes.txt or the config, in the order of the values')
        names = [f'class {i}' for i in range(number)]
    return names, Labels(values, levels.astype(np.uint8))


def _strong(paths: Collection[Path]) -> list[int]:
    """The grey levels without those of blurred borders.

    A pixel of a blurred border lies between the levels of its neighbours; regions have pixels among similar ones.
    """
    def count(path: Path) -> np.ndarray:
        level = (_read(path) & 255).astype(np.uint8)
        low, high = (f(level, np.ones((3, 3))) for f in (cv2.erode, cv2.dilate))
        return np.stack([np.bincount(level[where], minlength=256)
                         for where in (low <= high, high - low <= 2, (low < level) & (level < high))])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        total, inner, between = sum(pool.map(count, paths))
    levels = np.flatnonzero(total).tolist()
    borders = (2 * between > total) & (total > 4 * inner)
    if borders.sum() <= (len(levels) / 2 if len(levels) > DENSE else 0):  # rare and thin classes are among many
        return levels
    strong, least = [], np.maximum(total / 4, 10 * np.median(inner[levels]))
    for level in sorted(levels, key=lambda level: -inner[level]):
        if inner[level] > least[level] and all(abs(level - other) > 24 for other in strong):
            strong.append(level)
    return sorted(strong) if len(strong) > 1 else [0, IGNORED]


def _colours(tree: Tree) -> dict[int, str]:
    """Value of a colour -> class, from the first text or CSV file with several lines of a name and R, G, B."""
    for path in tree.with_suffix('.txt', '.csv'):
        found = [match for line in read_text(path).splitlines() if (match := _COLOUR.match(line))]
        if len(found) > 1:
            return {COLOUR | int(red) << 16 | int(green) << 8 | int(blue): match['name'] or match['name2']
                    for match in found for red, green, blue in [re.findall(r'\d+', match['rgb'] or match['rgb2'])]}
    return {}


def _split(tree: Tree, split: str, items: Sequence[tuple[Pair, str]], counts: Mapping[Path, Mapping[int, int]],
           labels: Labels, listed: bool, files: dict[str, str | bytes]) -> Split:
    """A split, whose images are listed in a file if need be."""
    pair = items[0][0]
    first = next(iter(pair.images.values()))
    settings = dict(_delete_=True, type='BaseSegDataset', img_suffix=first.suffix, seg_map_suffix=pair.ending,
                    data_prefix=dict(img_path=tree.relative(first.parent), seg_map_path=tree.relative(pair.folder)))
    if listed:
        files[f'{split}.txt'] = ''.join(f'{stem}\n' for _, stem in items)
        settings['ann_file'] = f'{{{{ fileDirname }}}}/{split}.txt'
    if (labels.values != labels.classes).any():
        settings['data_prefix']['seg_map_path'] = f'{{{{ fileDirname }}}}/labels/{split}'
        settings['seg_map_suffix'] = '.png'
        for _, stem in items:
            buffer = BytesIO()
            Image.fromarray(labels.read(pair.labels[stem])).save(buffer, 'PNG')
            files[f'labels/{split}/{stem}.png'] = buffer.getvalue()
    sizes, total = tree.look(pair.images[stem] for _, stem in items), Counter()
    samples = [Sample(pair.images[stem], sizes[pair.images[stem]], label=pair.labels[stem]) for _, stem in items
               if pair.images[stem] in sizes]
    for sample in samples:
        for value, number in counts[sample.label].items():
            total[int(labels.of(value))] += number
    del total[IGNORED]
    return Split(samples, total, settings)
