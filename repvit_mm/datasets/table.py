"""Tables of boxes: CSV files with a box in each row."""
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.files import read_text
from .objects import Record, make_item, record_reader
from .tree import Tree

KIND = 'CSV of boxes'
#: Names of each column, in lower case.
COLUMNS = (('image', 'filename', 'file_name', 'image_path', 'path', 'image_name', 'image_id'),
           ('x1', 'xmin', 'x_min', 'left'), ('y1', 'ymin', 'y_min', 'top'), ('x2', 'xmax', 'x_max', 'right'),
           ('y2', 'ymax', 'y_max', 'bottom'), ('class', 'label', 'class_name', 'label_name', 'name', 'category'))


def find(tree: Tree) -> dict[Path, list[list[str]]]:
    """File -> rows of image, x1, y1, x2, y2 and class, from tables that have these columns."""
    tables = {path: _rows(path) for path in tree.with_suffix('.csv')}
    return {path: rows for path, rows in tables.items() if rows}


def _records(tree: Tree, path: Path, rows: Sequence[Sequence[str]]) -> Iterator[Record]:
    """The images of a table. One whose row has no box is background."""
    objects, folder = defaultdict(list), tree.relative(path.parent)
    for number, (name, *edges, label) in enumerate(rows, 1):
        found = objects[f'{folder}/{name}' if folder else name]
        if any(edges):
            left, top, right, bottom = map(float, edges)
            if not 0 <= left < right < float('inf') or not 0 <= top < bottom < float('inf'):
                raise ValueError(f'box {number} of {name}: expected x1 < x2 and y1 < y2 in pixels, got '
                                 f'{", ".join(edges)}')
            found.append(make_item(label, [(left, top), (right, bottom)]))
    for name, found in objects.items():
        yield Record(name, found, tree.split_of(path))


def _rows(path: Path) -> list[list[str]]:
    rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    head = [word.strip().lower() for word in rows[0]] if rows else []
    places = [next((head.index(name) for name in names if name in head), None) for names in COLUMNS]
    if None not in places:
        return [[row[place].strip() for place in places] for row in rows[1:] if len(row) > max(places)]
    first = rows[0] if rows else []  # without a head
    return rows if len(first) == 6 and '.' in first[0] and all(word.replace('.', '').isdigit() or not word
                                                               for word in first[1:5]) else []


read = record_reader(KIND, _records)
