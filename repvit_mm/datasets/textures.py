"""Textures of the embedded data set, computed from coordinates and a random generator.

With element-wise arithmetic and integer drawing only, a seed gives the same pixels on every machine.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

# Vivid colours for objects, muted ones for backgrounds.
VIVID: tuple[Colour, ...] = (
    (230, 57, 70), (244, 132, 55), (250, 196, 55), (124, 181, 76), (38, 156, 131), (52, 152, 219), (72, 91, 199),
    (146, 84, 200), (226, 96, 160), (150, 92, 60), (32, 60, 92), (245, 240, 225))
QUIET: tuple[tuple[Colour, Colour], ...] = (
    ((238, 230, 214), (216, 202, 178)), ((206, 220, 228), (172, 194, 208)), ((214, 226, 206), (180, 202, 172)),
    ((232, 212, 208), (208, 182, 178)), ((98, 108, 120), (70, 80, 94)), ((116, 104, 96), (86, 76, 70)),
    ((84, 106, 98), (60, 80, 74)), ((196, 186, 210), (168, 156, 186)))


@dataclass(frozen=True)
class Plane:
    """Coordinates for a pattern.

    Attributes:
        u: First coordinate of every pixel, any 2-D shape.
        v: Second coordinate, same shape and unit as ``u``.
    """

    u: np.ndarray
    v: np.ndarray

    @classmethod
    def of_pixels(cls, height: int, width: int, origin: tuple[float, float], angle: float) -> 'Plane':
        """Coordinates of a picture's pixels relative to ``origin`` (x, y), rotated by ``angle`` radians."""
        x, y = np.arange(width) + .5 - origin[0], (np.arange(height) + .5 - origin[1])[:, None]
        cos, sin = math.cos(angle), math.sin(angle)
        return cls(x * cos + y * sin, y * cos - x * sin)


def _triangle_wave(x: np.ndarray) -> np.ndarray:
    """0 at integers, 1 halfway between them."""
    return 1 - np.abs(2 * (x - np.floor(x)) - 1)


def _step(x: np.ndarray, width: float) -> np.ndarray:
    """A ramp from 0 to 1 around 0, of the given width: a soft edge."""
    return np.clip(x / width + .5, 0, 1)


def plain(plane: Plane, period: float) -> np.ndarray:
    """No pattern."""
    return np.zeros_like(plane.u)


def stripes(plane: Plane, period: float) -> np.ndarray:
    """Bands across ``u``."""
    return _step(_triangle_wave(plane.u / period) - .5, 3 / period)


def checks(plane: Plane, period: float) -> np.ndarray:
    """A chessboard."""
    a, b = (_step(_triangle_wave(x / (2 * period)) - .5, 1.5 / period) for x in (plane.u, plane.v))
    return a + b - 2 * a * b


def dots(plane: Plane, period: float) -> np.ndarray:
    """Round dots on a square grid."""
    u, v = (x / period - np.floor(x / period) - .5 for x in (plane.u, plane.v))
    return _step(.3 - np.sqrt(u * u + v * v), 1.5 / period)


def plaid(plane: Plane, period: float) -> np.ndarray:
    """Crossing translucent bands."""
    return (stripes(plane, period) + stripes(Plane(plane.v, plane.u), period)) / 2


PATTERNS: tuple[Callable[[Plane, float], np.ndarray], ...] = (plain, plain, stripes, checks, dots, plaid)


def mix(first: Colour, second: Colour, weight: np.ndarray) -> np.ndarray:
    """Blend two colours, ``weight`` (H, W) of the second; float64 (H, W, 3) of the range 0-255."""
    first_, second_ = np.array(first, np.float64), np.array(second, np.float64)
    return first_ + (second_ - first_) * weight[..., None]


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (factor below 1) or lighter (above 1) ``colour``."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)


def smooth_noise(rng: np.random.Generator, size: int, cell: int) -> np.ndarray:
    """Random values on a grid of ``cell`` pixels, interpolated smoothly; float64 (size, size), 0-1."""
    grid = rng.random((size // cell + 2,) * 2)
    position = np.arange(size) / cell
    low = position.astype(np.intp)
    t = position - low
    t = t * t * (3 - 2 * t)
    rows = grid[low] + (grid[low + 1] - grid[low]) * t[:, None]
    return rows[:, low] + (rows[:, low + 1] - rows[:, low]) * t


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A muted surface of clouds, a pattern, light from above and grain; float64 (size, size, 3), 0-255."""
    first, second = QUIET[rng.integers(len(QUIET))]
    plane = Plane.of_pixels(size, size, (size / 2, size / 2), rng.random() * np.pi)
    clouds = sum(weight * smooth_noise(rng, size, max(2, size // n)) for n, weight in ((3, .5), (7, .3), (17, .2)))
    pattern = PATTERNS[rng.integers(len(PATTERNS))](plane, size / (8 + 10 * rng.random()))
    canvas = mix(first, second, .6 * clouds + .4 * pattern)
    light = 1 + .18 * (plane.v / size) + .04 * (rng.random((size, size)) - .5)
    return np.clip(canvas * light[..., None], 0, 255)
