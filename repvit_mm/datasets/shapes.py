"""The embedded data set: drawn scenes of overlapping shapes, in the folder layouts of the three toolboxes.

Example:
    >>> root = write_coco('data/shapes', train=800, val=100)    # CocoDataset
    >>> root = write_segmentation('data/shapes_seg')            # BaseSegDataset
    >>> root = write_classification('data/shapes_cls')          # mmpretrain's CustomDataset
"""
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from rich.progress import track

from ..errors import DatasetError
from ..io.files import atomic_write, read_json, write_json

SPLITS = ('train', 'val')
MANIFEST = 'shapes.json'
#: Incremented with every change of images or files, so that folders of older versions are drawn again.
VERSION = 2
#: Shapes are drawn at this scale and averaged down, for smooth edges.
SUPERSAMPLING = 3
#: Smallest visible part of each object.
MIN_VISIBLE = 0.55
VIVID = ((230, 57, 70), (244, 132, 55), (250, 196, 55), (124, 181, 76), (38, 156, 131), (52, 152, 219), (72, 91, 199),
         (146, 84, 200), (226, 96, 160), (150, 92, 60), (32, 60, 92), (245, 240, 225))
MUTED = ((230, 222, 205), (192, 208, 219), (199, 214, 190), (221, 200, 196), (84, 94, 107), (100, 90, 83), (72, 93, 86),
         (183, 172, 201))
#: Functions of two coordinates, above 0 where the second colour is.
PATTERNS = (lambda u, v: -np.ones_like(u), lambda u, v: np.sin(u), lambda u, v: 2 * np.sin(u) * np.sin(v),
            lambda u, v: np.cos(u) + np.cos(v) - 1)

Contour = list[tuple[float, float]]


def _polar(radius: Callable[[float], float], points: int) -> Contour:
    """The points (x, y) at a radius that depends on the angle; the first one is at the top."""
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(radius(a) * math.sin(a), -radius(a) * math.cos(a)) for a in angles]


def _heart() -> Contour:
    angles = [2 * math.pi * i / 60 for i in range(60)]
    return [(0.94 * math.sin(a) ** 3,
             (5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a) - 13 * math.cos(a)) / 17) for a in angles]


def _crescent() -> Contour:
    # A circle of radius 0.8 around (0.55, 0) cuts the unit circle at x.
    x = (1 - 0.8 ** 2 + 0.55 ** 2) / (2 * 0.55)
    outer = np.linspace(math.acos(x), 2 * math.pi - math.acos(x), 48)
    inner = np.linspace(2 * math.pi - math.acos((x - 0.55) / 0.8), math.acos((x - 0.55) / 0.8), 36)
    return [*zip(np.cos(outer), np.sin(outer), strict=True),
            *zip(0.55 + 0.8 * np.cos(inner), 0.8 * np.sin(inner), strict=True)]


_CIRCLE = _polar(lambda angle: 1., 64)
_CROSS = [(s * x, s * y) for s in (1, -1) for x, y in (
    (-0.35, -0.94), (0.35, -0.94), (0.35, -0.35), (0.94, -0.35), (0.94, 0.35), (0.35, 0.35))]
#: Class name -> contours in the unit circle; a second one is a hole. The order defines the labels.
SHAPES: dict[str, tuple[Contour, ...]] = {
    'circle': (_CIRCLE,), 'square': (_polar(lambda angle: 1., 4),), 'triangle': (_polar(lambda angle: 1., 3),),
    'star': (_polar(lambda angle: 0.45 if round(angle * 5 / math.pi) % 2 else 1., 10),), 'heart': (_heart(),),
    'cross': (_CROSS,),
    'ring': (_CIRCLE, [(0.55 * x, 0.55 * y) for x, y in _CIRCLE]), 'crescent': (_crescent(),)}
CLASSES = tuple(SHAPES)


class Scene(NamedTuple):
    """An image and its objects, from back to front.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: Indices into :data:`CLASSES`.
        masks: Visible pixels of each object, bool (H, W).
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]

    def index_mask(self) -> np.ndarray:
        """Class of every pixel: 0 background, ``label + 1`` elsewhere; uint8 (H, W)."""
        index = np.zeros(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            index[mask] = label + 1
        return index


def draw_scene(seed: int | Sequence[int], size: int = 192, objects: tuple[int, int] = (2, 5),
               radius: tuple[float, float] = (0.15, 0.28), label: int | None = None) -> Scene:
    """Draw a scene.

    Args:
        seed: One number or several, such as (seed of the data set, split, index).
        size: Width and height in pixels.
        objects: Smallest and largest number of objects; fewer are drawn if there is no room.
        radius: Smallest and largest radius of an object's circumcircle, as fractions of ``size``.
        label: Label of all objects; random if None.
    """
    def shares(coverage: Image.Image) -> np.ndarray:
        return np.asarray(coverage, np.float32)[..., None] / 255

    rng = np.random.default_rng(seed)
    colour = MUTED[rng.integers(len(MUTED))]
    canvas = _textured(rng, size, (size / 2, size / 2), colour, size / rng.uniform(14, 26), 0.12, size)
    colours, labels, masks, areas = rng.permutation(VIVID), [], [], []
    for i in range(rng.integers(objects[0], objects[1] + 1)):
        for _ in range(30):
            new, r = int(rng.integers(len(CLASSES))) if label is None else label, size * rng.uniform(*radius)
            (x, y), angle = rng.uniform(r, size - r, 2), rng.uniform(0, 2 * math.pi)
            cos, sin = r * math.cos(angle), r * math.sin(angle)
            cover = _rasterise([[(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in contour]
                                for contour in SHAPES[CLASSES[new]]], size)
            inside = np.asarray(cover) >= 128
            if all((mask & ~inside).sum() >= MIN_VISIBLE * area for mask, area in zip(masks, areas, strict=True)):
                break
        else:
            break
        blurred = cover.filter(ImageFilter.GaussianBlur(r / 10))
        shadow = shares(blurred.transform(blurred.size, Image.Transform.AFFINE, (1, 0, -r / 10, 0, 1, -r / 10)))
        fill = _textured(rng, size, (x, y), colours[i % len(colours)], r * rng.uniform(0.35, 0.6), 0.3, 2 * r)
        fill *= 1 - 0.45 * np.clip(7 - 8 * shares(blurred), 0, 1)  # an outline
        canvas *= 1 - 0.35 * shadow
        canvas += (fill - canvas) * shares(cover)
        masks = [*(mask & ~inside for mask in masks), inside]
        labels.append(new)
        areas.append(inside.sum())
    return Scene(canvas.round().clip(0, 255).astype(np.uint8), labels, masks)


def _rasterise(contours: Sequence[Contour], size: int) -> Image.Image:
    """How much of each pixel a shape covers, 0 to 255."""
    cover = Image.new('L', (SUPERSAMPLING * size,) * 2)
    for fill, contour in zip((255, 0), contours, strict=False):
        ImageDraw.Draw(cover).polygon([(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in contour], fill)
    return cover.reduce(SUPERSAMPLING)


def _textured(rng: np.random.Generator, size: int, centre: tuple[float, float], colour: Sequence[int], period: float,
              contrast: float, reach: float) -> np.ndarray:
    """A colour with a random pattern, lit from the top left; float32 (size, size, 3) of 0 to 255."""
    x, y = np.arange(size, dtype=np.float32) - centre[0], np.arange(size, dtype=np.float32)[:, None] - centre[1]
    cos, sin = (2 * math.pi / period * f(rng.uniform(0, math.pi)) for f in (math.cos, math.sin))
    pattern = PATTERNS[rng.integers(len(PATTERNS))](x * cos + y * sin, y * cos - x * sin)
    light = (1 - contrast * np.clip(period / 4 * pattern + 0.5, 0, 1)) * (1.06 - 0.16 * (x + y) / reach)
    return light[..., None] * np.float32(colour)


# Folders

def _write_detection(folder: Path, split: str, scenes: Iterable[tuple[str, Scene]]) -> None:
    from pycocotools import mask as mask_utils
    images, annotations = [], []
    for name, scene in scenes:
        height, width = scene.image.shape[:2]
        images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            runs = mask_utils.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(dict(
                id=len(annotations) + 1, image_id=len(images), category_id=label + 1, iscrowd=0,
                area=int(mask_utils.area(runs)), bbox=mask_utils.toBbox(runs).tolist(),
                segmentation=dict(runs, counts=runs['counts'].decode())))
        _save(scene.image, folder / 'images' / split / name)
    categories = [dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)]
    (folder / 'annotations').mkdir(exist_ok=True)
    write_json(folder / 'annotations' / f'instances_{split}.json',
               dict(images=images, annotations=annotations, categories=categories))


def _write_segmentation(folder: Path, split: str, scenes: Iterable[tuple[str, Scene]]) -> None:
    palette = [channel for colour in ((0, 0, 0), *VIVID) for channel in colour]
    for name, scene in scenes:
        _save(scene.image, folder / 'img_dir' / split / name)
        _save(scene.index_mask(), folder / 'ann_dir' / split / name, palette)


def _write_classification(folder: Path, split: str, scenes: Iterable[tuple[str, Scene]]) -> None:
    for name, scene in scenes:
        _save(scene.image, folder / split / CLASSES[scene.labels[0]] / name)


def _save(image: np.ndarray, path: Path, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image)
    if palette:
        image.putpalette(palette)
    image.save(path, compress_level=1)


#: Layout of a toolbox -> writer of a split, top-level folders, and whether each image has one object.
LAYOUTS: dict[str, tuple[Callable[[Path, str, Iterable[tuple[str, Scene]]], None], tuple[str, ...], bool]] = {
    'detection': (_write_detection, ('images', 'annotations'), False),
    'segmentation': (_write_segmentation, ('img_dir', 'ann_dir'), False),
    'classification': (_write_classification, SPLITS, True)}


def write_shapes(layout: str, root: str | Path, size: int = 192, seed: int = 0, train: int = 1200, val: int = 150,
                 quiet: bool = False) -> Path:
    """Write scenes in a folder. The same arguments give the same scenes in every layout; a folder that has them already
    is left unchanged, and one with other scenes is replaced.

    Args:
        layout: A key of :data:`LAYOUTS`. With ``'classification'``, each image has one object.
        root: The folder.
        size: Width and height of the images.
        seed: Seed of the scenes.
        train: Number of scenes for training.
        val: Number of held-out scenes.
        quiet: Do not show progress.

    Returns:
        ``root``.

    Raises:
        DatasetError: If ``root`` holds other files.
    """
    root, counts, (write, folders, single) = Path(root), (train, val), LAYOUTS[layout]
    settings = dict(version=VERSION, layout=layout, size=size, seed=seed, counts=list(counts))
    if root.exists():
        foreign = {path.name for path in root.iterdir()} - {MANIFEST, *folders}
        if foreign:
            raise DatasetError(f'{root} holds {min(foreign)!r}, which is not part of the drawn data set: use another '
                               'folder, or empty this one')
        if (root / MANIFEST).exists() and read_json(root / MANIFEST) == settings:
            return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draw = partial(draw_scene, size=size, **dict(objects=(1, 1), radius=(0.2, 0.42)) if single else {})
    with atomic_write(root, folder=True) as partial_root:
        for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
            write(partial_root, split, (
                (f'{i:06d}.png', draw((seed, number, i), label=i % len(CLASSES) if single else None))
                for i in track(range(count), f'drawing {split} scenes', disable=quiet)))
        write_json(partial_root / MANIFEST, settings)
    return root


write_coco, write_segmentation, write_classification = (partial(write_shapes, layout) for layout in LAYOUTS)
