"""Annotations of Pascal VOC: an XML file for each image."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DatasetError, shortened
from ..io.files import read_text
from .objects import Item, Part, Record, box_object, convert
from .tree import Tree, named

KIND = 'Pascal VOC'
#: Lists of images for training and for validation, in the order of preference.
LISTS = (('train', 'val'), ('trainval', 'test'), ('train', 'test'))
EDGES = ('xmin', 'ymin', 'xmax', 'ymax')


def find(tree: Tree) -> list[Path]:
    """The XML files of annotations, by their first tag."""
    return tree.xmls('annotation')


def read(tree: Tree, files: list[Path], notes: list[str]) -> dict[str, Part]:
    """Read annotations of Pascal VOC.

    The splits are those of ``ImageSets/Main``, or those in the names of folders. A box includes its last pixel, and the
    first pixel of an image is 1, as the format defines; difficult objects are crowds.

    Raises:
        DatasetError: If a file is damaged, no file has an image, or several data sets are in the folder.
    """
    if len(roots := {path.parent.parent for path in files if path.parent.name == 'Annotations'}) > 1:
        raise DatasetError(f'{tree.root} has several data sets: {shortened(map(str, sorted(roots)))}; give one of them')
    images = {path: _image(tree, path) for path in files}
    if without := [path for path, image in images.items() if image is None]:
        if len(without) == len(files):
            raise DatasetError(f'none of the {len(files)} annotations has an image of its name, first {files[0]}')
        notes.append(f'{named(without)} of {len(files)} annotations have no image')
    splits = _splits(tree, {path.stem for path, image in images.items() if image})
    return convert(tree, [_record(path, tree.relative(image), splits.get(path.stem) or tree.split_of(path.parent))
                          for path, image in images.items() if image], notes)


def _image(tree: Tree, path: Path) -> Path | None:
    """The image with the name of an XML file: in ``JPEGImages`` or ``images`` beside its folder, or in its own."""
    for folder in (path.parent.parent / 'JPEGImages', path.parent.parent / 'images', path.parent):
        if image := tree.folders.get(folder, {}).get(path.stem):
            return image
    return None


def _record(path: Path, image: str, split: str | None) -> Record:
    try:
        root = ElementTree.parse(path).getroot()
        size = [float(root.findtext(f'size/{key}') or 0) for key in ('width', 'height')]
        return Record(image, list(_objects(root)), split, tuple(map(int, size)) if all(size) else None)
    except (ElementTree.ParseError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DatasetError(f'{path} cannot be read as an annotation of Pascal VOC: {error}') from error


def _objects(root: ElementTree.Element) -> Iterator[Item]:
    for item in root.iter('object'):
        edges = [item.findtext(f'bndbox/{key}') for key in EDGES]
        name = item.findtext('name')
        if not name or None in edges:
            raise ValueError(f'expected objects with a name and a bndbox of {", ".join(EDGES)}')
        left, top, right, bottom = map(float, edges)
        left, top = max(left - 1, 0.), max(top - 1, 0.)  # the first pixel is 1; many programs write 0
        yield box_object(name, left, top, right, bottom, crowd=int(item.findtext('difficult') or 0) == 1)


def _splits(tree: Tree, stems: set[str]) -> Mapping[str, str]:
    """Name of an image -> split, from the lists; empty without lists."""
    lists = {path.stem: path for path in tree.with_suffix('.txt') if path.parent.name == 'Main'}
    for names in LISTS:
        if lists.keys() >= set(names):
            splits = {line.split()[0]: split for split, name in zip(('train', 'val'), names, strict=True)
                      for line in read_text(lists[name]).splitlines() if line.strip()}
            if missing := sorted(splits.keys() - stems):
                raise DatasetError(f'{lists[names[0]].parent} lists {shortened(missing, 3)}, which has no annotation '
                                   'with an image')
            return splits
    return {}
