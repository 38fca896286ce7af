"""Scenes of overlapping geometric objects, with a mask of each object's visible part.

Scenes are independent of data set formats; :mod:`repvit_mm.datasets.shapes` writes them for the toolboxes.

Example:
    >>> scene = draw_scene(SceneSpec(size=96), seed=0)
    >>> scene.image.shape, scene.image.dtype
    ((96, 96, 3), dtype('uint8'))
    >>> all(obj.mask.any() for obj in scene.objects)
    True
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..errors import ConfigError
from . import textures

# Objects are drawn at this scale and averaged down, for smooth edges from integer drawing.
SUPERSAMPLING = 4
# OpenCV takes fixed-point coordinates in units of 1 / 2**SHIFT pixel.
SHIFT = 4
PLACEMENT_TRIES = 30


def _arc(radius: float, start: float, stop: float, steps: int, centre: float = 0.) -> list[tuple[float, float]]:
    angles = [start + (stop - start) * i / steps for i in range(steps + 1)]
    return [(centre + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _regular(corners: int, inner: float = 1.) -> list[tuple[float, float]]:
    """A regular polygon, or a star with inner corners at the radius ``inner`` < 1."""
    count = corners if inner == 1 else 2 * corners
    radii = [1. if inner == 1 or i % 2 == 0 else inner for i in range(count)]
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / 60 for i in range(60)]
    points = [(16 * math.sin(a) ** 3, 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a) - 13 * math.cos(a))
              for a in angles]
    return [(x / 17, y / 17) for x, y in points]


def _cross() -> list[tuple[float, float]]:
    a, b = .35, .94
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


def _crescent() -> list[tuple[float, float]]:
    # The inner circle (radius .8 about .55) cuts the outer one where both have the same distance to the centre line.
    x = (1 - .8 ** 2 + .55 ** 2) / (2 * .55)
    outer, inner = math.acos(x), math.acos((x - .55) / .8)
    return _arc(1., outer, 2 * math.pi - outer, 48) + _arc(.8, 2 * math.pi - inner, inner, 36, .55)


# Name -> contours in the unit circle; a second contour is a hole. The order defines the labels.
SHAPES: dict[str, tuple[Sequence[tuple[float, float]], ...]] = {
    'circle': (_regular(64),),
    'square': (_regular(4),),
    'triangle': (_regular(3),),
    'star': (_regular(5, .45),),
    'heart': (_heart(),),
    'cross': (_cross(),),
    'ring': (_regular(64), [(.55 * x, .55 * y) for x, y in _regular(64)]),
    'crescent': (_crescent(),),
}
CLASSES = tuple(SHAPES)


@dataclass(frozen=True)
class SceneSpec:
    """Settings of scenes.

    Attributes:
        size: Width and height of the picture in pixels.
        objects: Smallest and largest number of objects.
        radius: Smallest and largest radius of an object's circumcircle, as fractions of ``size``.
        min_visible: Smallest visible fraction of each object.
    """

    size: int = 192
    objects: tuple[int, int] = (2, 5)
    radius: tuple[float, float] = (.15, .28)
    min_visible: float = .55

    def __post_init__(self):
        if self.size < 32:
            raise ConfigError(f'size={self.size} must be at least 32 pixels')
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ConfigError(f'objects={self.objects} must be (smallest, largest) with 1 <= smallest <= largest')
        if not 0 < self.radius[0] <= self.radius[1] <= .45:
            raise ConfigError(f'radius={self.radius} must be (smallest, largest) with 0 < smallest <= largest <= 0.45')
        if not 0 < self.min_visible <= 1:
            raise ConfigError(f'min_visible={self.min_visible} must be above 0 and at most 1')


@dataclass
class SceneObject:
    """An object of a scene.

    Attributes:
        label: Index into :data:`CLASSES`.
        mask: Visible pixels, bool (H, W).
        full_area: Number of pixels without occlusion.
    """

    label: int
    mask: np.ndarray
    full_area: int

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the bounding box of the visible pixels."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))


@dataclass
class Scene:
    """A picture and its objects.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        objects: From back to front, with disjoint masks.
    """

    image: np.ndarray
    objects: list[SceneObject] = field(default_factory=list)

    def index_mask(self) -> np.ndarray:
        """Class of every pixel: 0 background, ``label + 1`` elsewhere; uint8 (H, W)."""
        index = np.zeros(self.image.shape[:2], np.uint8)
        for obj in self.objects:
            index[obj.mask] = obj.label + 1
        return index


@dataclass(frozen=True)
class _Pose:
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class _Window:
    """The square of the canvas that covers an object and its shadow; ``x`` and ``y`` are its first column and row."""

    x: int
    y: int
    size: int
    margin: int

    @classmethod
    def around(cls, pose: _Pose, margin: int) -> '_Window':
        reach = math.ceil(pose.radius) + margin
        return cls(math.floor(pose.x) - reach, math.floor(pose.y) - reach, 2 * reach + 1, margin)

    def of(self, array: np.ndarray) -> np.ndarray:
        """This window of a (H, W, ...) array, as a view."""
        return array[self.y:self.y + self.size, self.x:self.x + self.size]

    def coverage(self, paint: Callable[[np.ndarray], object]) -> np.ndarray:
        """Fraction of each pixel that ``paint`` fills on the enlarged window; float64 (size, size)."""
        canvas = np.zeros((self.size * SUPERSAMPLING,) * 2, np.uint8)
        paint(canvas)
        rows = sum(canvas[i::SUPERSAMPLING] for i in range(SUPERSAMPLING))
        return sum(rows[:, i::SUPERSAMPLING] for i in range(SUPERSAMPLING)) / SUPERSAMPLING ** 2

    def contours(self, label: int, pose: _Pose) -> list[np.ndarray]:
        """Outlines of an object on the enlarged window, in fixed-point coordinates."""
        cos, sin = pose.radius * math.cos(pose.angle), pose.radius * math.sin(pose.angle)
        scale = SUPERSAMPLING * 2 ** SHIFT
        left, top = pose.x - self.x, pose.y - self.y
        return [np.array([[round((left + cos * x - sin * y) * scale), round((top + sin * x + cos * y) * scale)]
                          for x, y in contour], np.int32) for contour in SHAPES[CLASSES[label]]]

    def plane(self, pose: _Pose, angle: float) -> textures.Plane:
        """Coordinates of the window's pixels relative to the object's centre, rotated by ``angle``."""
        return textures.Plane.of_pixels(self.size, self.size, (pose.x - self.x, pose.y - self.y), angle)


def _blur(image: np.ndarray, reach: int) -> np.ndarray:
    """Mean over a square of ``2 * reach + 1`` pixels; the sums of coverages, which are 16ths, are exact."""
    for axis in (0, 1):
        padding = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        sums = np.cumsum(np.pad(image, padding), axis)
        ahead, behind = np.split(sums, [2 * reach + 1], axis)[1], np.split(sums, [-2 * reach - 1], axis)[0]
        image = ahead - behind
    return image / (2 * reach + 1) ** 2


def _blend(canvas: np.ndarray, paint: np.ndarray, alpha: np.ndarray) -> None:
    canvas += (paint - canvas) * alpha[..., None]


def _paint_object(canvas: np.ndarray, window: _Window, pose: _Pose, outline: list[np.ndarray], coverage: np.ndarray,
                  colour: textures.Colour, rng: np.random.Generator) -> None:
    """Draw an object and its shadow into a window of the canvas."""
    canvas = window.of(canvas)
    line = max(2, round(pose.radius / 5))
    edge = window.coverage(lambda image: cv2.polylines(image, outline, True, 1, line, shift=SHIFT))
    reach = window.margin // 2
    shadow = _blur(np.pad(coverage, ((reach, 0), (reach, 0)))[:window.size, :window.size], reach)
    _blend(canvas, np.zeros(3), .4 * shadow)

    other = textures.shade(colour, (.72, 1.45)[rng.integers(2)])
    # The texture is rotated with the object, the light is not.
    pattern = textures.PATTERNS[rng.integers(len(textures.PATTERNS))]
    fill = textures.mix(colour, other, pattern(window.plane(pose, pose.angle), pose.radius * (.3 + .3 * rng.random())))
    straight = window.plane(pose, 0.)
    light = 1 - .12 * np.clip((straight.u + straight.v) / pose.radius, -1.5, 1.5)
    fill = np.clip(fill * light[..., None], 0, 255)
    _blend(fill, np.array(textures.shade(colour, .45), np.float64), .75 * edge)
    _blend(canvas, fill, coverage)


def _pose(spec: SceneSpec, placed: list[_Pose], border: int, rng: np.random.Generator) -> _Pose:
    """A random place in the picture, often close to an earlier object."""
    low, high = spec.radius
    radius = spec.size * (low + (high - low) * rng.random())
    first, last = border + radius, border + spec.size - radius
    x, y = first + (last - first) * rng.random(2)
    if placed and rng.random() < .5:
        near, angle = placed[rng.integers(len(placed))], 2 * math.pi * rng.random()
        distance = (near.radius + radius) * (.6 + .35 * rng.random())
        x, y = near.x + distance * math.cos(angle), near.y + distance * math.sin(angle)
        x, y = (min(max(c, first), last) for c in (x, y))
    return _Pose(float(x), float(y), radius, 2 * math.pi * rng.random())


def draw_scene(spec: SceneSpec, seed: int | Sequence[int], label: int | None = None) -> Scene:
    """Draw a scene; the same arguments give the same pixels on every machine.

    Args:
        spec: Settings of the scene.
        seed: One number or several, such as (seed of the data set, split, index), for numpy's ``default_rng``.
        label: Class of all objects, an index into :data:`CLASSES`; random classes if None.

    Returns:
        The scene. It has fewer objects than intended, but at least one, if there is no room for more.
    """
    rng = np.random.default_rng(seed)
    # Windows extend beyond the picture by the shadow's margin and by rounding; the border is cropped at the end.
    margin = max(2, spec.size // 32)
    border = margin + 2
    canvas = textures.background(rng, spec.size + 2 * border)
    # Each object has another colour.
    colours = [textures.VIVID[i] for i in rng.permutation(len(textures.VIVID))]
    poses: list[_Pose] = []
    objects: list[SceneObject] = []
    for _ in range(rng.integers(spec.objects[0], spec.objects[1] + 1)):
        for _ in range(PLACEMENT_TRIES):
            pose = _pose(spec, poses, border, rng)
            new_label = int(rng.integers(len(CLASSES))) if label is None else label
            window = _Window.around(pose, margin)
            outline = window.contours(new_label, pose)
            coverage = window.coverage(lambda image, o=outline: cv2.fillPoly(image, o, 1, shift=SHIFT))
            inside = coverage >= .5
            # The new object must leave enough of each earlier one visible.
            if all(obj.mask.sum() - (window.of(obj.mask) & inside).sum() >= spec.min_visible * obj.full_area
                   for obj in objects):
                break
        else:
            break
        _paint_object(canvas, window, pose, outline, coverage, colours[len(poses) % len(colours)], rng)
        for obj in objects:
            window.of(obj.mask)[inside] = False
        mask = np.zeros(canvas.shape[:2], bool)
        window.of(mask)[...] = inside
        objects.append(SceneObject(new_label, mask, int(inside.sum())))
        poses.append(pose)
    picture = slice(border, border + spec.size)
    for obj in objects:
        obj.mask = np.ascontiguousarray(obj.mask[picture, picture])
    return Scene(np.rint(canvas[picture, picture]).astype(np.uint8), objects)
