"""Annotations of LabelMe: a JSON file for each image."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .objects import Part, Record, convert, polygon_object
from .tree import Tree

KIND = 'LabelMe JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with shapes, and their content."""
    return {path: content for path, content in tree.jsons.items()
            if isinstance(content, Mapping) and {'shapes', 'imagePath'} <= content.keys()}


def read(tree: Tree, files: Mapping[Path, Any], notes: list[str]) -> dict[str, Part]:
    """Read polygons, rectangles and circles; other shapes are counted.

    Raises:
        DatasetError: If a shape is malformed.
    """
    records, others = [], 0
    for path, content in files.items():
        image = tree.folders.get(path.parent, {}).get(path.stem) or path.parent / str(content['imagePath'])
        try:
            objects = [_object(shape) for shape in content['shapes']]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DatasetError(f'{path}: a shape has no label or no points: {error!r}') from error
        others += objects.count(None)
        records.append(Record(tree.relative(image), list(filter(None, objects)), tree.split_of(path.parent)))
    if others:
        notes.append(f'{others} shapes are no polygons, rectangles or circles and are not used')
    return convert(tree, records, notes)


def _object(shape: Mapping[str, Any]) -> tuple | None:
    kind, name = shape.get('shape_type') or 'polygon', str(shape['label'])
    points = [(float(x), float(y)) for x, y in shape['points']]
    if kind == 'circle':
        (x, y), edge = points
        radius = ((edge[0] - x) ** 2 + (edge[1] - y) ** 2) ** .5
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    if kind == 'polygon' and len(points) > 2:
        return polygon_object(name, points)
    return (*polygon_object(name, points)[:2], None, False) if kind in ('rectangle', 'circle') else None
