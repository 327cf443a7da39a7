"""Anti-aliased shapes and noise, the pencil of every scene.

All lengths and positions are in pixels of the final image, ``(x, y)`` with the origin in the
upper left corner. The drawing itself happens on a canvas that is ``SUPERSAMPLING`` times finer.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

SIZE = 256
"""Height and width of a finished image in pixels."""

SUPERSAMPLING = 2
"""Canvas pixels per image pixel, in each direction."""

CANVAS = SIZE * SUPERSAMPLING
"""Height and width of the canvas in canvas pixels."""

Array: TypeAlias = npt.NDArray[np.floating]
Point: TypeAlias = tuple[float, float]
Window: TypeAlias = tuple[slice, slice]

WHOLE: Window = (slice(0, CANVAS), slice(0, CANVAS))


@cache
def pixel_grid() -> tuple[Array, Array]:
    """Return the x and y coordinates of the canvas pixels, each ``(CANVAS, CANVAS)``, in image pixels."""
    axis = (np.arange(CANVAS, dtype=np.float32) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


@dataclass(frozen=True)
class Shape:
    """A region of the canvas, as a signed distance.

    Args:
        distance: ``(h, w)``, distance to the outline in image pixels, negative inside.
        window: Part of the canvas that ``distance`` covers; nothing of the shape lies outside of it.
    """

    distance: Array
    window: Window = WHOLE

    def coverage(self, softness: float = 1 / SUPERSAMPLING) -> Array:
        """Return how much of each pixel is inside, ``(h, w)`` in [0, 1], with an edge ``softness`` pixels wide."""
        return np.clip(0.5 - self.distance / softness, 0, 1)

    def profile(self, bevel: float) -> Array:
        """Return a smooth rise, ``(h, w)``, from 0 at the outline to 1 at ``bevel`` image pixels inside of it."""
        t = np.clip(-self.distance / bevel, 0, 1)
        return t * t * (3 - 2 * t)


def disc(centre: Point, radius: float) -> Shape:
    """Return a filled circle."""
    window = _window(centre, radius)
    x, y = (axis[window] for axis in pixel_grid())
    return Shape(np.hypot(x - centre[0], y - centre[1]) - radius, window)


def box(centre: Point, size: Point, angle: float = 0.0, corner: float = 0.0) -> Shape:
    """Return a filled rectangle of ``size`` (width, height), turned by ``angle`` radians, with rounded corners."""
    window = _window(centre, math.hypot(*size) / 2)
    x, y = (axis[window] for axis in pixel_grid())
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = math.cos(angle), math.sin(angle)
    u = np.abs(cos * dx + sin * dy) - size[0] / 2 + corner
    v = np.abs(cos * dy - sin * dx) - size[1] / 2 + corner
    outside = np.hypot(np.maximum(u, 0), np.maximum(v, 0))
    return Shape(outside + np.minimum(np.maximum(u, v), 0) - corner, window)


def stroke(lines: list[Array], width: float) -> Shape:
    """Return lines of constant ``width`` through the given points, each ``(n, 2)``."""
    return Shape(distance_to(lines) - width / 2)


def distance_to(lines: list[Array]) -> Array:
    """Return the distance of every pixel to the nearest of the polylines, ``(CANVAS, CANVAS)`` in image pixels."""
    background = np.full((CANVAS, CANVAS), 255, np.uint8)
    shift = 4
    fixed_point = [np.round((line * SUPERSAMPLING - 0.5) * 2**shift).astype(np.int32) for line in lines]
    cv2.polylines(background, fixed_point, isClosed=False, color=(0,), shift=shift)
    return cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32) / SUPERSAMPLING


def blob(rng: np.random.Generator, centre: Point, radius: float, raggedness: float = 0.3) -> Shape:
    """Return an irregular patch of about the given radius; ``raggedness`` 0 makes it a circle."""
    largest = 2.5
    around = disc(centre, radius * (1 + largest * raggedness))
    bulges = np.clip(smooth_noise(rng, 1.5 * radius, octaves=3)[around.window], -largest, largest)
    return Shape(around.distance + (largest + bulges) * raggedness * radius, around.window)


@lru_cache(maxsize=64)
def text(line: str, centre: Point, height: float, angle: float = 0.0) -> Shape:
    """Return one line of text; ``height`` is the font size in image pixels, ``angle`` its turn in radians."""
    fine = 2
    font = ImageFont.load_default(size=height * SUPERSAMPLING * fine)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(line))
    picture = Image.new("L", (right - left + 2 * fine, bottom - top + 2 * fine))
    ImageDraw.Draw(picture).text((fine - left, fine - top), line, fill=255, font=font)
    turned = picture.rotate(-math.degrees(angle), Image.Resampling.BICUBIC, expand=True)
    shape = (round(turned.width / fine), round(turned.height / fine))
    ink = np.asarray(turned.resize(shape, Image.Resampling.BOX), dtype=np.float32) / 255
    x0, y0 = (round(c * SUPERSAMPLING - extent / 2) for c, extent in zip(centre, shape, strict=True))
    window = (slice(y0, y0 + shape[1]), slice(x0, x0 + shape[0]))
    return Shape((0.5 - ink) / SUPERSAMPLING, window)


def wandering_path(rng: np.random.Generator, start: Point, length: float, bend: float, step: float = 2.0) -> Array:
    """Return the ``(n, 2)`` points of a smoothly curved line in a random direction.

    Args:
        rng: Source of randomness.
        start: Middle of the line.
        length: Length of the line in image pixels.
        bend: Typical change of direction over the whole line in radians; 0 makes it straight.
        step: Distance between neighbouring points in image pixels.
    """
    count = max(int(length / step), 2)
    turns = np.cumsum(rng.normal(size=count)) * bend / math.sqrt(count)
    heading = rng.uniform(0, 2 * np.pi) + cv2.GaussianBlur(turns[None], (0, 0), 2)[0]
    points = np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    return points - points[count // 2] + start


def smooth_noise(rng: np.random.Generator, period: float, octaves: int = 1) -> Array:
    """Return cloudy noise, ``(CANVAS, CANVAS)``, mean about 0 and standard deviation about 1.

    Args:
        rng: Source of randomness.
        period: Size of the largest clouds in image pixels.
        octaves: Number of layers; each is half as large and half as strong as the one before.
    """
    weights = 0.5 ** np.arange(octaves, dtype=np.float32)
    weights /= 0.9 * np.linalg.norm(weights)  # Interpolation takes a tenth of the deviation away.
    total = np.zeros((CANVAS, CANVAS), np.float32)
    for octave, weight in enumerate(weights):
        cells = max(math.ceil(SIZE * 2**octave / period), 1) + 1
        coarse = weight * rng.standard_normal((cells, cells), dtype=np.float32)
        if cells < 64:  # OpenCV enlarges very small pictures five times more slowly.
            coarse = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
        total += cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return total


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high``, small ones as often as large ones."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _window(centre: Point, radius: float) -> Window:
    """Return the part of the canvas around a circle, with a margin for soft edges."""
    reach = radius + 2
    x, y = (
        slice(max(int((c - reach) * SUPERSAMPLING), 0), max(int((c + reach) * SUPERSAMPLING) + 1, 1)) for c in centre
    )
    return y, x
