"""Label Studio's own JSON."""
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .objects import Item, Part, Record, convert, polygon_object
from .tree import Tree

KIND = 'Label Studio JSON'


def find(tree: Tree) -> dict[Path, Any]:
    """The files with tasks, and their content."""
    return {path: content for path, content in tree.jsons.items() if isinstance(content, list) and content
            and isinstance(content[0], Mapping) and {'data', 'annotations'} <= content[0].keys()}


def read(tree: Tree, files: Mapping[Path, Any], notes: list[str]) -> dict[str, Part]:
    """Read rectangles and polygons of each task's last annotation; tasks without an annotation are not used.

    Raises:
        DatasetError: If a task is malformed.
    """
    records = []
    for path, tasks in files.items():
        try:
            for task in filter(lambda task: task['annotations'], tasks):
                name = next(str(value) for value in task['data'].values() if isinstance(value, str))
                records.append(Record(name, list(_objects(task['annotations'][-1]))))
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise DatasetError(f'{path} cannot be read as {KIND}: {error!r}; export it as COCO') from error
    return convert(tree, records, notes)


def _objects(annotation: Mapping[str, Any]) -> Iterator[Item | None]:
    for item in annotation['result']:
        kind, value = item['type'], item['value']
        if kind in ('choices', 'relation', 'textarea', 'rating'):  # no shapes
            continue
        scale = item['original_width'] / 100, item['original_height'] / 100  # values are in percent
        if kind == 'polygonlabels':
            yield polygon_object(value[kind][0], [(x * scale[0], y * scale[1]) for x, y in value['points']])
        elif kind == 'rectanglelabels':
            box = [value[key] * scale[i % 2] for i, key in enumerate(('x', 'y', 'width', 'height'))]
            yield Item(value[kind][0], tuple(box))
        else:
            yield None
