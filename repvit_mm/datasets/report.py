"""Output of ``tools/init.py``: the printed report and the written folder."""
import shlex
from collections import Counter
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import ConfigError, printable
from ..io.files import atomic_write, make_folder
from .configs import Config
from .dataset import Dataset, Split
from .sheet import draw_sheet
from .tree import counted

#: Rows of the table of classes.
ROWS = 25
SHEET = 'images.png'
#: Files of an earlier run.
OWN_FILES = {SHEET, 'train.json', 'val.json', 'train.txt', 'val.txt', 'labels'}
THINGS = {'detection': 'objects', 'segmentation': 'pixels in %', 'classification': 'images'}


def choose_folder(root: Path, name: str, out: str | Path | None, overwrite: bool) -> Path:
    """The folder to write: by default ``name`` in the current one, or beside ``root`` if that is inside of it.

    Raises:
        ConfigError: If it exists and may not be overwritten, or holds other files than this writes.
    """
    here = root.resolve().parent if Path().resolve().is_relative_to(root.resolve()) else Path()
    folder = here / name if out is None else Path(out).expanduser()
    if not folder.exists():
        return folder
    if foreign := {path.name for path in folder.iterdir()} - OWN_FILES - {f'{name}.py'}:
        raise ConfigError(f'{folder} holds {min(foreign)}, which init did not write; name another folder with --out')
    if not overwrite:
        raise ConfigError(f'{folder} exists; --overwrite replaces it, --out names another folder')
    return folder


def write(dataset: Dataset, folder: Path, config: Config) -> int:
    """Write config, contact sheet, and the files of the config: the whole folder, or nothing.

    Returns:
        The number of images on the sheet.

    Raises:
        UserError: If the folder cannot be written.
    """
    make_folder(folder.parent, '--out')
    with atomic_write(folder, folder=True) as partial:
        partial.mkdir()
        for name, content in {f'{config.name}.py': config.text, **dataset.files}.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return draw_sheet(dataset, partial / SHEET)


def describe(dataset: Dataset, console: Console) -> None:
    """Print the findings."""
    masks = ' with masks' if dataset.masks else ''
    console.print(f'{dataset.root}: {dataset.kind}, {dataset.task}{masks}', style='bold', highlight=False,
                  markup=False)
    table = Table(box=None, pad_edge=False, header_style='dim')
    table.add_column('')
    for split in dataset.splits:
        table.add_column(split, justify='right')
    splits = list(dataset.splits.values())
    table.add_row('images', *(f'{len(split.samples):,}' for split in splits))
    if dataset.task == 'detection':
        table.add_row('objects', *(f'{split.counts.total():,}' for split in splits))
        table.add_row('side of an object', *map(_side, splits))
    table.add_row('image size', *map(_size, splits))
    table.add_section()
    table.add_row(f'[dim]{THINGS[dataset.task]} of {counted(len(dataset.classes), "classes")}[/]')
    for label in sorted(range(len(dataset.classes)), key=lambda i: -splits[0].counts[i])[:ROWS]:
        table.add_row(escape(printable(dataset.classes[label])), *(
            f'{100 * split.counts[label] / (split.counts.total() or 1):.1f}' if dataset.task == 'segmentation'
            else f'{split.counts[label]:,}' for split in splits))
    console.print(table, highlight=False)
    if len(dataset.classes) > ROWS:
        console.print(f'... and {len(dataset.classes) - ROWS} more', style='dim', highlight=False)
    for note in dataset.notes:
        console.print(f'! {printable(note)}', style='yellow', highlight=False, markup=False, soft_wrap=True)


def next_commands(dataset: Dataset, folder: Path, config: Config, shown: int) -> str:
    """The written files, and the commands from here to an exported model."""
    name = config.name
    path, work_dir = shlex.quote(str(folder / f'{name}.py')), f'work_dirs/{name}'
    last, image = f'{work_dir}/{config.checkpoint}', shlex.quote(str(dataset.splits['val'].samples[0].path))
    small = ('Without a GPU, --model rtmdet_m0_6 writes a smaller, faster detector, from ImageNet weights\n'
             if dataset.task == 'detection' and 'RTMDet' not in config.about else '')
    return (f'\nWritten: {folder / name}.py\n         {config.about}\n         {folder / SHEET}\n         '
            f'{counted(shown, "images")} with their annotations: look at them first\n{small}'
            f'Train:   repvit-mm train {path}\n'
            f'Test:    repvit-mm test {path} {last} --report {work_dir}/report\n'
            f'Predict: repvit-mm infer {path} {image} --checkpoint {last} --out {work_dir}/predicted\n'
            f'Export:  repvit-mm export {path} {last} --to onnx --shape {config.shape[0]} {config.shape[1]} '
            f'--out {work_dir}/{name}.onnx' + ' --pyramid' * ('RTMDet-Ins' in config.about))


def _side(split: Split) -> str:
    """Square root of the areas of the boxes: median, smallest, largest."""
    sides = [(max(box[2] - box[0], 0) * max(box[3] - box[1], 0)) ** .5
             for sample in split.samples for _, box, _ in sample.objects]
    return f'{median(sides):.0f} px ({min(sides):.0f}-{max(sides):.0f})' if sides else '-'


def _size(split: Split) -> str:
    sizes = Counter(sample.size for sample in split.samples)
    (width, height), _ = sizes.most_common(1)[0]
    return f'{width} x {height}' + (f' and {len(sizes) - 1} others' if len(sizes) > 1 else '')
