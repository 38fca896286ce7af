"""The files below a folder, and what their names say about splits and classes."""
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from ..errors import DatasetError
from ..io.class_folders import HELD_OUT, held_out
from ..io.files import find_files, read_text
from ..io.image_files import IMAGE_SUFFIXES
from ..io.images import image_size

#: Word in a path -> split.
WORDS = {**dict.fromkeys(('train', 'training'), 'train'), **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
         **dict.fromkeys(('test', 'testing'), 'test')}
#: Headers of pictures that are read; of more pictures, so many evenly spaced ones.
LOOKED_AT = 5000
#: Files with the name of a class in each line.
NAME_FILES = ('classes.txt', 'labels.txt', 'obj.names')


class Tree:
    """The files below a folder.

    Args:
        root: The folder.

    Attributes:
        root: The folder.
        files: All files below it, sorted; hidden ones are left out, links are followed.

    Raises:
        DatasetError: If there is no such folder, or it has no files.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DatasetError(f'there is no folder {self.root}')
        self.files = find_files(self.root)
        if not self.files:
            raise DatasetError(f'{self.root} is empty')

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, in lower case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    @cached_property
    def pictures(self) -> list[Path]:
        """The pictures, by their suffix."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def folders(self) -> Mapping[Path, Mapping[str, Path]]:
        """Folder -> name without suffix -> picture."""
        folders: dict[Path, dict[str, Path]] = defaultdict(dict)
        for path in self.pictures:
            folders[path.parent][path.stem] = path
        return folders

    def relative(self, path: str | Path) -> str:
        """A path as seen from the root, with slashes; empty for the root itself."""
        text = Path(path).relative_to(self.root).as_posix()
        return '' if text == '.' else text

    def split_of(self, path: Path) -> str | None:
        """``'train'``, ``'val'`` or ``'test'``, if a word in the path says so."""
        return split_in(self.relative(path))

    def class_names(self) -> list[str] | None:
        """The lines of ``classes.txt`` or the like, if there is one."""
        for path in self.files:
            if path.name in NAME_FILES:
                return [line.strip() for line in read_text(path).splitlines() if line.strip()]
        return None


def split_in(name: str) -> str | None:
    """The split that the last one of such words in a name says, see :data:`WORDS`."""
    words = re.findall('[a-z]+', name.lower())
    return next((WORDS[word] for word in reversed(words) if word in WORDS), None)


def sizes_of(paths: Sequence[Path]) -> dict[Path, tuple[int, int] | None]:
    """Width and height of pictures, or of :data:`LOOKED_AT` of them; None for what cannot be read."""
    chosen = paths[::-(-len(paths) // LOOKED_AT) or 1]
    with ThreadPoolExecutor() as pool:
        return dict(zip(chosen, pool.map(image_size, chosen), strict=True))


def check_readable(sizes: Mapping[Path, tuple[int, int] | None]) -> None:
    """Check that pictures could be read.

    Raises:
        DatasetError: Naming the first one that could not, for what :func:`sizes_of` returned.
    """
    if broken := [path for path, size in sizes.items() if size is None]:
        raise DatasetError(f'{named(broken)} of {counted(len(sizes), "pictures")} cannot be read; repair or remove '
                           'them')


def choose_splits(parts: Mapping[str | None, Sequence], notes: list[str]) -> dict[str, Sequence]:
    """Give the pictures for training and those for validation, held out from the others if need be.

    Args:
        parts: Split, or None where names do not say -> an item for each picture.
        notes: What was held out, or is not used, is added here.

    Raises:
        DatasetError: If there are fewer than two pictures.
    """
    train, val, test, other = (list(parts.get(split, ())) for split in ('train', 'val', 'test', None))
    if train and (val or test):
        if other or (val and test):
            unused = len(other) + len(test) * bool(val)
            notes.append(f'{unused} pictures belong to neither training nor validation and are not used')
        return dict(train=train, val=val or test)
    items = train + val + test + other
    if len(items) < 2:
        raise DatasetError(f'training and validation need pictures: there {"is" if items else "are"} only {len(items)}')
    held = set(held_out(range(len(items)), HELD_OUT))
    notes.append(f'there is no split: {len(held)} of {len(items)} pictures, always the same ones, are held out for '
                 'validation; if neighbours are alike, as the frames of a film, split them yourself')
    return dict(train=[item for i, item in enumerate(items) if i not in held],
                val=[item for i, item in enumerate(items) if i in held])


def counted(number: int, things: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f'{number:,} {things.removesuffix("s") if number == 1 else things}'


def named(paths: Iterable[Path]) -> str:
    """How many paths, and the first one, for a message."""
    paths = sorted(paths)
    return f'{len(paths)} ({"first " * (len(paths) > 1)}{paths[0]})'
