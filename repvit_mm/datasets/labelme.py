"""Annotations of LabelMe: a JSON file for each image."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .objects import Item, Part, Record, convert, polygon_object
from .tree import Tree

KIND = 'LabelMe JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with shapes, and their content."""
    return {path: content for path, content in tree.jsons.items()
            if isinstance(content, Mapping) and {'shapes', 'imagePath'} <= content.keys()}


def read(tree: Tree, files: Mapping[Path, Any], notes: list[str]) -> dict[str, Part]:
    """Read polygons, rectangles and circles.

    Raises:
        DatasetError: If a shape is malformed.
    """
    records = []
    for path, content in files.items():
        image = tree.folders.get(path.parent, {}).get(path.stem) or path.parent / str(content['imagePath'])
        try:
            records.append(Record(tree.relative(image), [_object(shape) for shape in content['shapes']],
                                  tree.split_of(path.parent)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DatasetError(f'{path}: a shape has no label or no points: {error!r}') from error
    return convert(tree, records, notes)


def _object(shape: Mapping[str, Any]) -> Item | None:
    kind, name = shape.get('shape_type') or 'polygon', str(shape['label'])
    points = [(float(x), float(y)) for x, y in shape['points']]
    if kind == 'circle':
        (x, y), edge = points
        radius = ((edge[0] - x) ** 2 + (edge[1] - y) ** 2) ** .5
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    if kind == 'polygon' and len(points) > 2:
        return polygon_object(name, points)
    return polygon_object(name, points)._replace(mask=None) if kind in ('rectangle', 'circle') else None
