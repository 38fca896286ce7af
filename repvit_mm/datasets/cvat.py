"""CVAT's own XML, "CVAT for images"."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from .objects import Item, Record, make_item, record_reader
from .tree import Tree, split_in

KIND = 'CVAT XML'


def find(tree: Tree) -> dict[Path, None]:
    """The XML files with annotations of several images."""
    return dict.fromkeys(tree.xmls('annotations'))


def _records(_: Tree, path: Path, __: None) -> Iterator[Record]:
    for node in ElementTree.parse(path).getroot().iter('image'):
        objects = [_object(shape.tag, shape.attrib) for shape in node if 'label' in shape.attrib]
        size = int(node.attrib['width']), int(node.attrib['height'])
        yield Record(node.attrib['name'], objects, split_in(node.attrib.get('subset', '')), size)


def _object(tag: str, shape: Mapping[str, str]) -> Item | None:
    if tag not in ('box', 'polygon'):
        return None
    texts = shape['points'].split(';') if tag == 'polygon' else [
        f'{shape["xtl"]},{shape["ytl"]}', f'{shape["xbr"]},{shape["ybr"]}']
    return make_item(shape['label'], [tuple(map(float, text.split(','))) for text in texts], tag == 'polygon')


read = record_reader(KIND, _records)
