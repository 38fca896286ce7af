"""The files of a folder: images, splits and class names by their names, and a look at every image."""
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DatasetError
from ..io.class_folders import HELD_OUT
from ..io.files import find_files, read_json, read_text
from ..io.image_files import choose_images
from ..io.images import check_images

#: Word in a path -> split.
WORDS = {**dict.fromkeys(('train', 'training'), 'train'), **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
         **dict.fromkeys(('test', 'testing'), 'test')}
#: Files with a class name in each line.
NAME_FILES = ('classes.txt', 'labels.txt', 'obj.names')

T = TypeVar('T')


class Tree:
    """The files below a folder.

    Args:
        root: The folder.

    Attributes:
        root: The folder.
        files: All files below it, without hidden ones.
        faults: Messages about data that cannot be learned from.
        damaged: Image -> reason, of those that could not be decoded.

    Raises:
        DatasetError: If the folder is missing or empty.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DatasetError(f'there is no folder {self.root}')
        self.files = find_files(self.root)
        if not self.files:
            raise DatasetError(f'{self.root} is empty')
        self.faults: list[str] = []
        self.damaged: dict[Path, str] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._missing: set[Path] = set()

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, in upper or lower case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @cached_property
    def images(self) -> list[Path]:
        """The images, by their suffix."""
        return choose_images(self.files)[0]

    @cached_property
    def folders(self) -> Mapping[Path, Mapping[str, Path]]:
        """Folder -> name without suffix -> image."""
        folders: dict[Path, dict[str, Path]] = defaultdict(dict)
        for path in self.images:
            folders[path.parent][path.stem] = path
        return folders

    @cached_property
    def jsons(self) -> Mapping[Path, Any]:
        """JSON file -> its content, or the error."""
        found = {}
        for path in self.with_suffix('.json'):
            try:
                found[path] = read_json(path)
                if isinstance(found[path], dict):
                    found[path].pop('imageData', None)  # LabelMe repeats the image
            except DatasetError as error:
                found[path] = error
        return found

    def xmls(self, tag: str) -> list[Path]:
        """The XML files with a tag in their first 1000 bytes."""
        pattern = re.compile(rf'<{tag}\b'.encode())
        return [path for path in self.with_suffix('.xml')
                if path.is_file() and pattern.search(path.open('rb').read(1000))]

    def relative(self, path: str | Path) -> str:
        """A path seen from the root, with slashes; empty for the root itself."""
        text = Path(path).relative_to(self.root).as_posix()
        return '' if text == '.' else text

    def split_of(self, path: Path) -> str | None:
        """``'train'``, ``'val'`` or ``'test'`` by a word in the path below the root, or None."""
        return split_in(self.relative(path)) if path.is_relative_to(self.root) else split_in(path.stem)

    def class_names(self) -> list[str] | None:
        """The lines of ``classes.txt`` or the like, if there is one."""
        for path in self.files:
            if path.name in NAME_FILES:
                return [line.strip() for line in read_text(path).splitlines() if line.strip()]
        return None

    def look(self, paths: Iterable[Path], name: str = '') -> dict[Path, tuple[int, int]]:
        """Decode images, each one once. Those that are missing are a fault.

        Args:
            paths: The images.
            name: Name of their annotations, for messages.

        Returns:
            Image -> width and height, without missing and :attr:`damaged` ones.
        """
        paths = list(dict.fromkeys(paths))
        missing = set(paths).difference(self.files)
        if missing - self._missing:
            self.faults.append(f'{named(missing)} of {counted(len(paths), "images")} of {name} are missing; add them, '
                               'or remove them from the annotations')
            self._missing |= missing
        seen = missing.union(self._sizes, self.damaged)
        sizes, errors = check_images([path for path in paths if path not in seen])
        self._sizes.update(sizes)
        self.damaged.update(errors)
        return {path: self._sizes[path] for path in paths if path in self._sizes}

    def check(self) -> None:
        """Raise the last fault as a DatasetError, if there is one."""
        if self.faults:
            raise DatasetError(self.faults.pop())



def split_in(name: str) -> str | None:
    """The split by the last word of :data:`WORDS` in a name."""
    words = re.findall('[a-z]+', name.lower())
    return next((WORDS[word] for word in reversed(words) if word in WORDS), None)


def choose_splits(parts: Mapping[str | None, Sequence[T]], labels_of: Callable[[T], Collection],
                  notes: list[str]) -> dict[str, list[T]]:
    """The images for training and for validation, held out from the others if need be.

    Args:
        parts: Split, or something else if not known -> images.
        labels_of: Gives the classes of an image.
        notes: Gets a line if images are held out or not used.

    Raises:
        DatasetError: If there are fewer than two images.
    """
    train, val, test = (list(parts.get(split, ())) for split in ('train', 'val', 'test'))
    other = [item for split in parts if split not in WORDS.values() for item in parts[split]]
    if train and (val or test):
        if unused := len(other) + len(test) * bool(val):
            notes.append(f'{unused} images belong to neither training nor validation and are not used')
        return dict(train=train, val=val or test)
    items = train + val + test + other
    if len(items) < 2:
        raise DatasetError(f'training and validation need at least two images, got {len(items)}')
    held = hold_out([set(labels_of(item)) for item in items])
    notes.append(f'there is no split: {len(held)} of {len(items)} images, always the same ones, are held out for '
                 'validation; if neighbours are alike, as the frames of a film, split them yourself')
    return dict(train=[item for i, item in enumerate(items) if i not in held],
                val=[item for i, item in enumerate(items) if i in held])


def hold_out(labels: Sequence[Collection]) -> set[int]:
    """Choose a part of the images for validation, always the same ones, with the same part of every class.

    Args:
        labels: Classes of each image. A class of one or two images stays in training.

    Returns:
        Indices of the images; at least one.
    """
    order = random.Random(0).sample(range(len(labels)), len(labels))
    counts, have, held = Counter(label for image in labels for label in set(image)), Counter(), set()
    order.sort(key=lambda i: min((counts[label] for label in labels[i]), default=len(labels)))  # rare classes first
    fair, most = ({label: f(count) for label, count in counts.items()}
                  for f in (lambda count: round(HELD_OUT * count), lambda count: count - 2))
    for limit, i in [*zip(repeat(fair), order), *zip(repeat(most), order)]:
        if len(held) < max(1, round(HELD_OUT * len(labels))) and i not in held and all(
                have[label] < limit[label] for label in labels[i]):
            held.add(i)
            have.update(labels[i])
    return held or set(order[-1:])


def copies(train: Iterable[Path], val: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Different files of the same content, in training and in validation."""
    train, val = ({path: path.stat().st_size for path in paths} for paths in (train, val))
    sizes = {*train.values()} & {*val.values()}  # only these are read again
    train, val = ({path: hashlib.sha256(path.read_bytes()).digest() for path, size in files.items() if size in sizes}
                  for files in (train, val))
    known = {digest: path for path, digest in train.items()}
    return [(known[digest], path) for path, digest in val.items() if known.get(digest, path) != path]


def counted(number: int, things: str) -> str:
    """``1 image``, ``2 images``; ``1 class``, ``2 classes``."""
    return f'{number:,} {re.sub("(?<=[sx])es$|s$", "", things) if number == 1 else things}'


def named(paths: Iterable[Path]) -> str:
    """Number of paths, and the first one, for a message."""
    paths = sorted(paths)
    return f'{len(paths)} ({"first " * (len(paths) > 1)}{paths[0]})'
