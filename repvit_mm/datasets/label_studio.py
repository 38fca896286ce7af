"""Label Studio's own JSON."""
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .objects import Item, Record, make_item, record_reader
from .tree import Tree

KIND = 'Label Studio JSON'
NO_SHAPES = ('choices', 'relation', 'textarea', 'rating')


def find(tree: Tree) -> dict[Path, Any]:
    """The files with tasks, and their content."""
    return {path: content for path, content in tree.jsons.items() if isinstance(content, list) and content
            and isinstance(content[0], Mapping) and {'data', 'annotations'} <= content[0].keys()}


def _records(_: Tree, __: Path, tasks: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Rectangles and polygons of each task's last annotation; tasks without an annotation are not used."""
    for task in tasks:
        if task['annotations']:
            image = [value for value in task['data'].values() if isinstance(value, str)][0]
            yield Record(image, [_object(item) for item in task['annotations'][-1]['result']
                                 if item['type'] not in NO_SHAPES])


def _object(item: Mapping[str, Any]) -> Item | None:
    kind, value = item['type'], item['value']
    if kind not in ('rectanglelabels', 'polygonlabels'):
        return None
    points = value['points'] if kind == 'polygonlabels' else [
        (value['x'], value['y']), (value['x'] + value['width'], value['y'] + value['height'])]
    width, height = item['original_width'] / 100, item['original_height'] / 100  # values are in percent
    return make_item(value[kind][0], [(x * width, y * height) for x, y in points], kind == 'polygonlabels')


read = record_reader(KIND, _records)
