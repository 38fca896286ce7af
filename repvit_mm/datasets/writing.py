"""What ``tools/init.py`` prints, and the folder that it writes."""
import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import ConfigError
from ..io.files import atomic_write, make_folder
from .configs import Written, find_gpu_memory, write_config
from .found import Found, Part
from .sheet import draw_sheet
from .tree import counted

#: Rows of the table of classes.
ROWS = 25
SHEET = 'pictures.png'
#: What a folder holds that was written before.
OWN_FILES = {SHEET, 'train.json', 'val.json', 'train.txt', 'val.txt', 'labels'}
WHAT = {'detection': 'objects', 'segmentation': 'pixels in %', 'classification': 'pictures'}


class Output(NamedTuple):
    """What was written.

    Attributes:
        folder: The folder.
        config: The config in it.
        written: What the config is about.
        shown: Pictures on the contact sheet.
    """

    folder: Path
    config: Path
    written: Written
    shown: int


def _name(root: Path) -> str:
    return re.sub(r'\W+', '_', root.resolve().name, flags=re.ASCII).strip('_') or 'data'


def choose_folder(root: str | Path, out: str | Path | None, overwrite: bool) -> Path:
    """The folder to write: by default ``NAME_repvit`` in the current one, or beside ``root`` if that is inside of it.

    Raises:
        ConfigError: If it exists and may not be overwritten, or holds other files than this writes.
    """
    root = Path(root).expanduser()
    if out is None:
        here = Path()
        if here.resolve().is_relative_to(root.resolve()):
            here = root.resolve().parent
        folder = here / f'{_name(root)}_repvit'
    else:
        folder = Path(out).expanduser()
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise ConfigError(f'{folder} is a file; name another folder with --out')
    foreign = {path.name for path in folder.iterdir()} - OWN_FILES - {f'{_name(root)}.py'}
    if foreign:
        raise ConfigError(f'{folder} holds {min(foreign)}, which is not from here; name another folder with --out')
    if not overwrite:
        raise ConfigError(f'{folder} is there already; --overwrite replaces it, --out names another folder')
    return folder


def write(found: Found, folder: Path) -> Output:
    """Write config, contact sheet, and what the config needs; the folder is written whole, or not at all.

    Raises:
        UserError: If it cannot be written, or a picture cannot be read.
    """
    written = write_config(found, find_gpu_memory())
    make_folder(folder.parent, '--out')
    with atomic_write(folder, folder=True) as partial:
        partial.mkdir()
        for name, content in {f'{_name(found.root)}.py': written.text, **found.files}.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        shown = draw_sheet(found, partial / SHEET)
    return Output(folder, folder / f'{_name(found.root)}.py', written, shown)


def describe(found: Found, console: Console) -> None:
    """Print what was found."""
    masks = ' with masks' if found.masks else ''
    console.print(f'{found.root}: {found.kind}, {found.task}{masks}', style='bold', highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style='dim')
    table.add_column('')
    for split in found.parts:
        table.add_column(split, justify='right')
    table.add_row('pictures', *(f'{len(part.pictures):,}' for part in found.parts.values()))
    if found.task == 'detection':
        table.add_row('objects', *(f'{sum(part.counts.values()):,}' for part in found.parts.values()))
        table.add_row('side of an object', *map(_side, found.parts.values()))
    table.add_row('picture size', *map(_sizes, found.parts.values()))
    table.add_section()
    table.add_row(f'[dim]{WHAT[found.task]} of {counted(len(found.classes), "classes")}[/]')
    counts = [_shown(found, part) for part in found.parts.values()]
    for label in sorted(range(len(found.classes)), key=lambda i: -found.parts['train'].counts[i])[:ROWS]:
        table.add_row(escape(_printable(found.classes[label])), *(column[label] for column in counts))
    console.print(table, highlight=False)
    if len(found.classes) > ROWS:
        console.print(f'... and {len(found.classes) - ROWS} more', style='dim', highlight=False)
    for note in found.notes:
        console.print(f'! {_printable(note)}', style='yellow', highlight=False, markup=False, soft_wrap=True)


def _printable(text: str) -> str:
    """A text with names from files, without what a terminal would obey."""
    return ''.join(char if char.isprintable() else '?' for char in text)


def _shown(found: Found, part: Part) -> dict[int, str]:
    if found.task != 'segmentation':
        return {i: f'{part.counts[i]:,}' for i in range(len(found.classes))}
    total = sum(part.counts.values()) or 1
    return {i: f'{100 * part.counts[i] / total:.1f}' for i in range(len(found.classes))}


def _side(part: Part) -> str:
    """Square root of the areas of the boxes: smallest, median, largest."""
    sides = [(max(box[2] - box[0], 0) * max(box[3] - box[1], 0)) ** .5
             for picture in part.pictures for _, box, _ in picture.marks]
    return f'{median(sides):.0f} px ({min(sides):.0f}-{max(sides):.0f})' if sides else '-'


def _sizes(part: Part) -> str:
    sizes = Counter(picture.size for picture in part.pictures if picture.size)
    if not sizes:
        return '-'
    (width, height), number = sizes.most_common(1)[0]
    return f'{width} x {height}' + (f' and {len(sizes) - 1} others' if len(sizes) > 1 else '')
