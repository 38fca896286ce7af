"""CVAT's own XML, "CVAT for images"."""
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DatasetError
from .objects import Part, Record, convert, polygon_object
from .tree import Tree, split_in

KIND = 'CVAT XML'


def find(tree: Tree) -> list[Path]:
    """The XML files with annotations of several images."""
    return tree.xmls('annotations')


def read(tree: Tree, files: list[Path], notes: list[str]) -> dict[str, Part]:
    """Read boxes and polygons; other shapes are counted.

    Raises:
        DatasetError: If a file is damaged.
    """
    records, others = [], 0
    for path in files:
        try:
            for node in ElementTree.parse(path).getroot().iter('image'):
                objects = [_object(shape.tag, shape.attrib) for shape in node if 'label' in shape.attrib]
                others += objects.count(None)
                size = int(node.attrib['width']), int(node.attrib['height'])
                records.append(Record(node.attrib['name'], list(filter(None, objects)),
                                      split_in(node.attrib.get('subset', '')), size))
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise DatasetError(f'{path} cannot be read as {KIND}: {error!r}') from error
    if others:
        notes.append(f'{others} shapes are no boxes or polygons and are not used; for masks, export "COCO 1.0"')
    return convert(tree, records, notes)


def _object(tag: str, shape: Mapping[str, str]) -> tuple | None:
    if tag == 'polygon':
        return polygon_object(shape['label'], [tuple(map(float, point.split(',')))
                                               for point in shape['points'].split(';')])
    if tag != 'box':
        return None
    left, top, right, bottom = (float(shape[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
    return shape['label'], [left, top, right - left, bottom - top], None, False
