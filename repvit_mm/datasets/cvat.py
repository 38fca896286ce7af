"""CVAT's own XML, "CVAT for images"."""
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DatasetError
from .objects import Item, Part, Record, box_object, convert, polygon_object
from .tree import Tree, split_in

KIND = 'CVAT XML'


def find(tree: Tree) -> list[Path]:
    """The XML files with annotations of several images."""
    return tree.xmls('annotations')


def read(tree: Tree, files: list[Path], notes: list[str]) -> dict[str, Part]:
    """Read boxes and polygons.

    Raises:
        DatasetError: If a file is damaged.
    """
    records = []
    for path in files:
        try:
            for node in ElementTree.parse(path).getroot().iter('image'):
                objects = [_object(shape.tag, shape.attrib) for shape in node if 'label' in shape.attrib]
                size = int(node.attrib['width']), int(node.attrib['height'])
                records.append(Record(node.attrib['name'], objects,
                                      split_in(node.attrib.get('subset', '')), size))
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise DatasetError(f'{path} cannot be read as {KIND}: {error!r}') from error
    return convert(tree, records, notes)


def _object(tag: str, shape: Mapping[str, str]) -> Item | None:
    if tag == 'polygon':
        return polygon_object(shape['label'], [tuple(map(float, point.split(',')))
                                               for point in shape['points'].split(';')])
    edges = [float(shape[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr') if tag == 'box']
    return box_object(shape['label'], *edges) if edges else None
