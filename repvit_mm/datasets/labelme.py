"""Annotations of LabelMe: a JSON file for each image."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .objects import Item, Record, make_item, record_reader
from .tree import Tree

KIND = 'LabelMe JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with shapes, and their content."""
    return {path: content for path, content in tree.jsons.items()
            if isinstance(content, Mapping) and {'shapes', 'imagePath'} <= content.keys()}


def _records(tree: Tree, path: Path, content: Mapping[str, Any]) -> Iterator[Record]:
    image = tree.folders.get(path.parent, {}).get(path.stem) or path.parent / str(content['imagePath'])
    yield Record(tree.relative(image), [_object(shape) for shape in content['shapes']], tree.split_of(path.parent))


def _object(shape: Mapping[str, Any]) -> Item | None:
    kind, points = shape.get('shape_type') or 'polygon', [(float(x), float(y)) for x, y in shape['points']]
    if kind == 'circle':
        (x, y), edge = points
        radius = ((edge[0] - x) ** 2 + (edge[1] - y) ** 2) ** .5
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    elif kind not in ('polygon', 'rectangle') or kind == 'polygon' and len(points) < 3:
        return None
    return make_item(str(shape['label']), points, outline=kind == 'polygon')


read = record_reader(KIND, _records)
