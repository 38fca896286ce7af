"""Annotations of Pascal VOC: an XML file for each image."""
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DatasetError, shortened
from ..io.files import read_text
from .objects import Item, Record, make_item, record_reader
from .tree import Tree

KIND = 'Pascal VOC'
#: Lists of images for training and for validation, in the order of preference.
LISTS = (('train', 'val'), ('trainval', 'test'), ('train', 'test'))
EDGES = ('xmin', 'ymin', 'xmax', 'ymax')


def find(tree: Tree) -> dict[Path, str | None]:
    """The XML files of annotations, by their first tag, and their splits in ``ImageSets/Main``.

    Raises:
        DatasetError: If an image that is listed has no annotation.
    """
    paths = tree.xmls('annotation')
    lists = [path for path in tree.with_suffix('.txt') if paths and path.parent.name == 'Main']
    train, val = next((names for names in LISTS if {path.stem for path in lists} >= set(names)), ('', ''))
    splits = {line.split()[0]: 'train' if path.stem == train else 'val' for path in lists if path.stem in (train, val)
              for line in read_text(path).splitlines() if line.strip()}
    if missing := sorted(splits.keys() - {path.stem for path in paths}):
        raise DatasetError(f'{lists[0].parent} lists {shortened(missing, 3)}, which has no annotation')
    return {path: splits.get(path.stem) for path in paths}


def _records(tree: Tree, path: Path, split: str | None) -> Iterator[Record]:
    """The image is that of the same name, in ``JPEGImages`` or ``images`` beside the folder, or in the same folder."""
    root = ElementTree.parse(path).getroot()
    folders = (path.parent.parent / 'JPEGImages', path.parent.parent / 'images', path.parent)
    image = next(filter(None, (tree.folders.get(folder, {}).get(path.stem) for folder in folders)), None)
    width, height = (int(float(root.findtext(f'size/{key}') or 0)) for key in ('width', 'height'))
    yield Record(tree.relative(image) if image else root.findtext('filename') or path.stem, [*_objects(root)],
                 split or tree.split_of(path.parent), (width, height) if width and height else None)


def _objects(root: ElementTree.Element) -> Iterator[Item]:
    """The objects; a box includes its last pixel, and the first pixel of an image is 1, as the format defines."""
    for item in root.iter('object'):
        edges = [item.findtext(f'bndbox/{key}') for key in EDGES]
        name = item.findtext('name')
        if not name or None in edges:
            raise ValueError(f'expected objects with a name and a bndbox of {", ".join(EDGES)}')
        left, top, right, bottom = map(float, edges)
        left, top = max(left - 1, 0.), max(top - 1, 0.)  # many programs count from 0
        yield make_item(name, [(left, top), (right, bottom)], crowd=int(item.findtext('difficult') or 0) == 1)


read = record_reader(KIND, _records)
