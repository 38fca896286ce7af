"""Match annotations in COCO's format with the files of their images."""
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import DatasetError, collect
from .files import find_files
from .image_files import choose_images
from .images import image_size

#: Largest number of image headers to read, evenly spaced.
LOOKED_AT = 5000
#: Advice where annotations fit an image without its EXIF orientation.
EXIF = ("; if they were made without the image's EXIF orientation, remove that from the images: "
        'exiftool -r -Orientation= FOLDER')
#: Label Studio puts this in front of the name of an upload.
_UPLOAD = re.compile('^[0-9a-f]{8}-')


def name_parts(file_name: str) -> list[str]:
    """Folders and name in a ``file_name``, normalised for comparison.

    Ignores Windows' separators, addresses, ``%20``, ``./`` and ``../``, Unicode's forms and upper case.
    """
    path = unquote(file_name).replace('\\', '/').rpartition('?d=')[2]  # local files of Label Studio
    parts = unicodedata.normalize('NFC', path).casefold().split('/')
    return [part for part in parts if part not in ('', '.', '..')]


def match_images(content: dict[str, Any], name: str, folder: str | Path) -> list[str]:
    """Match annotations with the images of a folder.

    A missing ``file_name`` is replaced by the only image with the same last part, if there is one. A wrong width and
    height is replaced by the image's if the boxes fit. The sizes of at most :data:`LOOKED_AT` images are compared, or
    of all if one of these differs.

    Args:
        content: Content checked by :func:`repvit_mm.io.coco.check_coco`; changed in place.
        name: Name of the file, for messages.
        folder: Folder of the images.

    Returns:
        Repairs and warnings, one line each.

    Raises:
        DatasetError: If several images match a name, the boxes of an image do not fit it, or all boxes are corners or
            shares.
    """
    notes, faults = [], []
    with collect(faults):
        notes += match_names(content['images'], name, Path(folder))
    with collect(faults):
        notes += _match_sizes(content, name, Path(folder))
    with collect(faults):
        notes += _check_boxes(content, name)
    if faults:
        raise DatasetError('; '.join(faults))
    return notes


def match_names(images: Sequence[dict[str, Any]], name: str, folder: Path) -> list[str]:
    """Match the file names of images with the files of a folder, see :func:`match_images`."""
    paths = [path.relative_to(folder).as_posix() for path in choose_images(find_files(folder))[0]]
    known, by_last = set(paths), defaultdict(list)
    for path in paths:
        by_last[name_parts(path)[-1]].append(path)
    taken: dict[str, str] = {}
    for image in images:
        written = image['file_name']
        if written in known or (folder / written).is_file():
            continue
        found = _best(name_parts(written), by_last)
        if len(found) > 1:
            raise DatasetError(f'{name}: the image {written} may be {found[0]} or {found[1]} in {folder}; write its '
                               'path from there as file_name')
        if found and taken.setdefault(found[0], written) != written:
            raise DatasetError(f'{name}: the images {taken[found[0]]} and {written} both match {found[0]} in {folder}; '
                               'write their paths from there as file_name')
        image['file_name'] = found[0] if found else written
    path, written = next(iter(taken.items()), ('', ''))
    return [f'{name}: {len(taken)} of {len(images)} images are found by the last part of their name in {folder}, first '
            f'{written} as {path}'] if taken else []


def _best(parts: Sequence[str], by_last: Mapping[str, Sequence[str]]) -> list[str]:
    """The paths that share the most trailing parts with a name."""
    last = parts[-1] if parts else ''
    found = by_last.get(last) or by_last.get(_UPLOAD.sub('', last)) or []

    def alike(path: str) -> int:
        pairs = zip(reversed(name_parts(path)[:-1]), reversed(parts[:-1]), strict=False)
        return next((number for number, (one, other) in enumerate(pairs) if one != other), len(parts))
    most = max(map(alike, found), default=0) if len(found) > 1 else 0
    return [path for path in found if len(found) == 1 or alike(path) == most]


def _match_sizes(content: Mapping[str, Any], name: str, folder: Path) -> list[str]:
    images = content['images']
    wrong = _other_sizes(images[::-(-len(images) // LOOKED_AT) or 1], folder)
    if wrong and len(images) > LOOKED_AT:
        wrong = _other_sizes(images, folder)
    extents: dict[Any, list[float]] = defaultdict(lambda: [0., 0.])
    for annotation in content.get('annotations', []) if wrong else ():
        x, y, width, height = annotation['bbox']
        extent = extents[annotation['image_id']]
        extent[:] = max(extent[0], x + width), max(extent[1], y + height)
    packed = {annotation['image_id'] for annotation in content.get('annotations', [])
              if isinstance(annotation.get('segmentation'), Mapping)}
    for image, (width, height) in wrong:
        right, bottom = extents[image['id']]
        if image['id'] in packed or right > width + 1 or bottom > height + 1:
            raise DatasetError(f'{folder / image["file_name"]} is {width} x {height}, but {name} has annotations for '
                               f'{image["width"]} x {image["height"]} that do not fit it'
                               + EXIF * ((width, height) == (image['height'], image['width'])))
        image.update(width=width, height=height)
    return [f'{name}: {len(wrong)} of {len(images)} images have another size than their files, first '
            f'{wrong[0][0]["file_name"]}; the size of the file is taken, which the boxes fit'] if wrong else []


def _other_sizes(images: Sequence[dict[str, Any]], folder: Path) -> list[tuple[dict[str, Any], tuple[int, int]]]:
    """Images whose files have another size, with that size."""
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda image: image_size(folder / image['file_name']), images)
        return [(image, size) for image, size in zip(images, sizes, strict=True)
                if size and size != (image['width'], image['height'])]


def _check_boxes(content: Mapping[str, Any], name: str) -> list[str]:
    """Count boxes beyond their images, and reject boxes given as corners or fractions."""
    sizes = {image['id']: (image['width'] + 1, image['height'] + 1) for image in content['images']}
    boxes = [(annotation['bbox'], sizes[annotation['image_id']]) for annotation in content.get('annotations', [])
             if annotation['image_id'] in sizes and all(map(math.isfinite, annotation['bbox']))]
    if boxes and all(max(box) <= 1 for box, _ in boxes):
        raise DatasetError(f'{name}: all boxes are fractions of the image size, first {boxes[0][0]}; expected pixels')
    beyond = [box for box, size in boxes
              if min(box[:2]) < -1 or box[0] + box[2] > size[0] or box[1] + box[3] > size[1]]
    if not beyond:
        return []
    message = f'{name}: {len(beyond)} of {len(boxes)} boxes reach beyond their image, first {beyond[0]}'
    if all(0 <= x < right <= size[0] and 0 <= y < bottom <= size[1] for (x, y, right, bottom), size in boxes):
        raise DatasetError(f'{message}, and all fit as x1, y1, x2, y2; expected x, y, width, height')
    return [message]
