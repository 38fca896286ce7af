"""The embedded data set: scenes of geometric objects in the folder layouts of the three toolboxes.

The same seed gives the same scenes in each layout. A complete folder is reused; one that is incomplete or has other
settings is replaced, once the new one is complete.

Example:
    >>> root = write_coco('data/shapes', train=800, val=100)    # CocoDataset
    >>> root = write_segmentation('data/shapes_seg')            # BaseSegDataset
    >>> root = write_classification('data/shapes_cls')          # mmpretrain's CustomDataset
    >>> root = write_multilabel('data/shapes_multilabel')       # mmpretrain's MultiLabelDataset
"""
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ..errors import ConfigError, DatasetError
from ..io.files import atomic_write
from .scenes import CLASSES, Scene, SceneObject, SceneSpec, draw_scene
from .textures import VIVID

SPLITS = ('train', 'val')
MANIFEST = 'shapes.json'
# Incremented with every change of pictures or files, so that folders of older versions are replaced.
VERSION = 1
SCENES = SceneSpec()
SINGLE_OBJECTS = SceneSpec(objects=(1, 1), radius=(.2, .42))


@dataclass(frozen=True)
class Layout:
    """The folder layout of a toolbox.

    Attributes:
        name: Name in the manifest.
        folders: Top-level folders.
        files: ``(split, numbered scenes)`` -> relative path and content of each file.
        one_object: Whether scenes have one object, of class ``index % len(CLASSES)``.
    """

    name: str
    folders: tuple[str, ...]
    files: Callable[[str, Iterable[tuple[int, Scene]]], Iterator[tuple[str, bytes]]]
    one_object: bool = False


def encode_rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a mask, bool (H, W): alternating runs of 0 and 1 in column order."""
    pixels = np.concatenate([[False], mask.ravel(order='F')])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    return dict(size=list(mask.shape), counts=np.diff(changes, prepend=0, append=mask.size).tolist())


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _index_png(index: np.ndarray) -> bytes:
    """A PNG of class indices, with a palette to make them visible."""
    picture = Image.fromarray(index)
    picture.putpalette([channel for colour in ((0, 0, 0), *VIVID[:len(CLASSES)]) for channel in colour])
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    return buffer.getvalue()


def _coco_annotation(obj: SceneObject, number: int, image: int) -> dict:
    return dict(
        id=number, image_id=image, category_id=obj.label + 1, iscrowd=0, area=int(obj.mask.sum()), bbox=list(obj.bbox),
        segmentation=encode_rle(obj.mask))


def _coco_files(split: str, scenes: Iterable[tuple[int, Scene]]) -> Iterator[tuple[str, bytes]]:
    images, annotations = [], []
    for index, scene in scenes:
        height, width = scene.image.shape[:2]
        images.append(dict(id=index + 1, file_name=f'{index:06d}.png', width=width, height=height))
        for obj in scene.objects:
            annotations.append(_coco_annotation(obj, len(annotations) + 1, index + 1))
        yield f'images/{split}/{index:06d}.png', _png(scene.image)
    categories = [dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)]
    content = dict(
        info=dict(description='Geometric objects drawn by repvit-mm', version=str(VERSION)), licenses=[],
        images=images, annotations=annotations, categories=categories)
    yield f'annotations/instances_{split}.json', json.dumps(content, separators=(',', ':')).encode()


def _segmentation_files(split: str, scenes: Iterable[tuple[int, Scene]]) -> Iterator[tuple[str, bytes]]:
    for index, scene in scenes:
        yield f'img_dir/{split}/{index:06d}.png', _png(scene.image)
        yield f'ann_dir/{split}/{index:06d}.png', _index_png(scene.index_mask())


def _classification_files(split: str, scenes: Iterable[tuple[int, Scene]]) -> Iterator[tuple[str, bytes]]:
    for index, scene in scenes:
        yield f'{split}/{CLASSES[scene.objects[0].label]}/{index:06d}.png', _png(scene.image)


def _multilabel_files(split: str, scenes: Iterable[tuple[int, Scene]]) -> Iterator[tuple[str, bytes]]:
    samples = []
    for index, scene in scenes:
        samples.append(dict(img_path=f'{split}/{index:06d}.png', gt_label=sorted({obj.label for obj in scene.objects})))
        yield f'images/{split}/{index:06d}.png', _png(scene.image)
    content = dict(metainfo=dict(classes=list(CLASSES)), data_list=samples)
    yield f'annotations/{split}.json', json.dumps(content, separators=(',', ':')).encode()


COCO = Layout('coco', ('images', 'annotations'), _coco_files)
SEGMENTATION = Layout('segmentation', ('img_dir', 'ann_dir'), _segmentation_files)
CLASSIFICATION = Layout('classification', SPLITS, _classification_files, one_object=True)
MULTILABEL = Layout('multilabel', ('images', 'annotations'), _multilabel_files)


def write_coco(root: str | Path, spec: SceneSpec = SCENES, seed: int = 0, train: int = 1200, val: int = 150,
               quiet: bool = False) -> Path:
    """Write scenes as a COCO instance segmentation data set.

    The folder has ``images/{train,val}/*.png`` and ``annotations/instances_{train,val}.json``. Category ``i + 1`` is
    ``CLASSES[i]``; masks are run lengths of the visible part of an object.

    Args:
        root: The folder; missing parents are created.
        spec: Settings of the scenes.
        seed: Seed of the scenes.
        train: Number of training scenes.
        val: Number of validation scenes, which differ from the training scenes.
        quiet: Do not show progress.

    Returns:
        ``root``.

    Raises:
        DatasetError: If ``root`` holds other files, or its parents cannot be created.
        UserError: If it cannot be written.
        ConfigError: If a count is below 1.
    """
    return _write(Path(root), COCO, spec, seed, dict(train=train, val=val), quiet)


def write_segmentation(root: str | Path, spec: SceneSpec = SCENES, seed: int = 0, train: int = 1200,
                       val: int = 150, quiet: bool = False) -> Path:
    """Write scenes as an MMSegmentation data set: ``img_dir/{train,val}/*.png`` and index masks of the same names in
    ``ann_dir``, 0 for the background and ``i + 1`` for ``CLASSES[i]``. Arguments and errors: :func:`write_coco`."""
    return _write(Path(root), SEGMENTATION, spec, seed, dict(train=train, val=val), quiet)


def write_classification(root: str | Path, spec: SceneSpec = SINGLE_OBJECTS, seed: int = 0,
                         train: int = 1200, val: int = 150, quiet: bool = False) -> Path:
    """Write pictures of one object each as ``{train,val}/CLASS/*.png``, with balanced classes; ``spec.objects`` is
    ignored. Arguments and errors: :func:`write_coco`."""
    return _write(Path(root), CLASSIFICATION, replace(spec, objects=(1, 1)), seed, dict(train=train, val=val), quiet)


def write_multilabel(root: str | Path, spec: SceneSpec = SCENES, seed: int = 0, train: int = 1200, val: int = 150,
                     quiet: bool = False) -> Path:
    """Write scenes as a multi-label data set: ``images/{train,val}/*.png``, and in ``annotations/{train,val}.json`` the
    classes that are in each, in the format of mmpretrain's ``MultiLabelDataset``. Arguments and errors:
    :func:`write_coco`."""
    return _write(Path(root), MULTILABEL, spec, seed, dict(train=train, val=val), quiet)


def is_complete(root: Path, layout: Layout, spec: SceneSpec, seed: int, counts: dict[str, int]) -> bool:
    """Whether ``root`` holds exactly this data set, with every file unchanged."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        files = manifest.pop('files')
        return manifest == _settings(layout, spec, seed, counts) and all(
            zlib.crc32((root / name).read_bytes()) == checksum for name, checksum in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _settings(layout: Layout, spec: SceneSpec, seed: int, counts: dict[str, int]) -> dict:
    settings = dict(layout=layout.name, version=VERSION, seed=seed, counts=counts, spec=asdict(spec))
    # Through JSON, so that tuples compare equal to the lists that are read back.
    return json.loads(json.dumps(settings))


def _write(root: Path, layout: Layout, spec: SceneSpec, seed: int, counts: dict[str, int], quiet: bool) -> Path:
    for split, count in counts.items():
        if count < 1:
            raise ConfigError(f'the number of {split} scenes must be at least 1, got {count}')
    if is_complete(root, layout, spec, seed, counts):
        return root
    try:
        foreign = set(os.listdir(root)) - {MANIFEST, *layout.folders} if root.exists() else set()
    except NotADirectoryError:
        raise DatasetError(f'{root} is a file, expected a folder') from None
    if foreign:
        raise DatasetError(f'{root} holds {min(foreign)!r}, which is not part of the {layout.name} data set: use '
                           'another folder, or empty this one')
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f'{root} cannot be written: {error.strerror}') from error
    with atomic_write(root, folder=True) as partial:
        _fill(partial, layout, spec, seed, counts, quiet)
    return root


def _fill(folder: Path, layout: Layout, spec: SceneSpec, seed: int, counts: dict[str, int], quiet: bool) -> None:
    checksums = {}
    for number, split in enumerate(SPLITS):
        def scenes(number: int = number, split: str = split) -> Iterator[tuple[int, Scene]]:
            for i in track(range(counts[split]), f'drawing {split} scenes', disable=quiet):
                yield i, draw_scene(spec, (seed, number, i), i % len(CLASSES) if layout.one_object else None)

        for name, content in layout.files(split, scenes()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            checksums[name] = zlib.crc32(content)
    manifest = dict(_settings(layout, spec, seed, counts), files=checksums)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
