"""A turned steel flange with bolt holes on a rubber mat."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from .defects import dent, marked_with, scratch, stain, thread
from .drawing import CANVAS, SIZE, Array, Point, Shape, disc, log_uniform, pixel_grid, smooth_noise, text
from .scene import Defect, Scene
from .surface import Colour, Surface, mat, turn_and_shift

MIDDLE = SIZE / 2
OUTER_RADIUS = 98.0
HUB_RADIUS = 52.0
BORE_RADIUS = 29.0
BOLT_CIRCLE = 76.0
BOLT_RADIUS = 8.0
BOLTS = 6
THICKNESS = 8.0

LOTS = (2207, 2214, 2231, 2248)
"""Numbers of the lots that are made at the same time."""

RINGS = 8
"""Rings per image pixel in the table of the lathe's marks."""

STEEL: Colour = (0.15, 0.15, 0.155)
STEEL_GLOSS = 1.3


@dataclass(frozen=True, eq=False)
class Flange(Scene):
    """A flange as it happens to lie under the camera.

    Args:
        holes: Middle of each bolt hole, for the flange in the middle of the image and not turned.
        pose: ``(2, 3)`` matrix from there to where it lies.
        lot: Number stamped into it.
        seed: Seed of the marks of the lathe and of the mat.
    """

    holes: tuple[Point, ...]
    pose: Array
    lot: int
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw a flange in any direction."""
        shift_x, shift_y = rng.uniform(-9, 9, size=2)
        tilted = rng.uniform(0.97, 1.03) * np.array([1, rng.uniform(0.97, 1)])
        return cls(
            holes=tuple(_polar(BOLT_CIRCLE, 2 * math.pi * bolt / BOLTS) for bolt in range(BOLTS)),
            pose=turn_and_shift(rng.uniform(0, 2 * math.pi), (shift_x, shift_y), scale=(tilted[0], tilted[1])),
            lot=LOTS[rng.integers(len(LOTS))],
            seed=int(rng.integers(2**32)),
        )

    def draw(self) -> Surface:
        """Return the flange on the mat."""
        rng = np.random.default_rng(self.seed)
        return self._steel(rng).moved(self.pose, background=mat(rng, (0.055, 0.067, 0.075)))

    def _steel(self, rng: np.random.Generator) -> Surface:
        radius = _radius()
        steel = Surface.plain(STEEL, STEEL_GLOSS)
        steel.height += _lathe_marks(rng) - 1
        steel.albedo *= (1 + 0.07 * smooth_noise(rng, 60, octaves=3))[..., None]
        steel.gloss *= 1 + 0.08 * smooth_noise(rng, 25, octaves=3)
        steel.lift(Shape(radius - OUTER_RADIUS), THICKNESS + 1, bevel=3)
        steel.lift(Shape(radius - HUB_RADIUS), 5, bevel=2.5)
        steel.lift(Shape(np.abs(radius - 60) - 1.5), -1.2, bevel=1)
        steel.lift(text(f"DN50 {self.lot}", _polar(BOLT_CIRCLE, math.pi / 2), height=9), -0.3, bevel=0.4)
        steel.lift(disc(_polar(BOLT_CIRCLE, -math.pi / 2), 3.5), -2 * THICKNESS, bevel=1)
        for hole in self.holes:
            steel.lift(disc(hole, BOLT_RADIUS + 2.5), -2, bevel=2)
            steel.lift(disc(hole, BOLT_RADIUS), -2 * THICKNESS, bevel=1)
        steel.lift(disc((MIDDLE, MIDDLE), BORE_RADIUS + 1.5), -1.5, bevel=1.5)
        steel.lift(disc((MIDDLE, MIDDLE), BORE_RADIUS), -3 * THICKNESS, bevel=1)
        return steel

    def point(self, rng: np.random.Generator) -> Point:
        """Draw a place on the steel."""
        while True:
            x, y = _polar(rng.uniform(BORE_RADIUS + 5, OUTER_RADIUS - 6), rng.uniform(0, 2 * math.pi))
            if all(math.hypot(x - hole_x, y - hole_y) > BOLT_RADIUS + 4 for hole_x, hole_y in self.holes):
                moved = self.pose @ (x, y, 1)
                return float(moved[0]), float(moved[1])

    def without_hole(self, rng: np.random.Generator) -> Surface:
        """Return the flange with one hole not drilled."""
        undrilled = int(rng.integers(BOLTS))
        return replace(self, holes=self.holes[:undrilled] + self.holes[undrilled + 1 :]).draw()

    def with_misplaced_hole(self, rng: np.random.Generator) -> Surface:
        """Return the flange with one hole drilled at a wrong place."""
        wrong = int(rng.integers(BOLTS))
        along = rng.choice([-1, 1]) * log_uniform(rng, 4.5, 15) / BOLT_CIRCLE
        holes = list(self.holes)
        holes[wrong] = _polar(BOLT_CIRCLE + rng.uniform(-3, 3), 2 * math.pi * wrong / BOLTS + along)
        return replace(self, holes=tuple(holes)).draw()

    defects: ClassVar[Mapping[str, Defect]] = {
        "dent": marked_with(dent),
        "misplaced_hole": with_misplaced_hole,
        "missing_hole": without_hole,
        "scratch": marked_with(partial(scratch, colour=(0.65, 0.65, 0.66), gloss=1.6)),
        "stain": marked_with(partial(stain, tint=(0.95, 0.6, 0.38), gloss=0.2)),
        "thread": marked_with(partial(thread, colours=((0.55, 0.55, 0.6), (0.08, 0.09, 0.1), (0.05, 0.12, 0.3)))),
    }


def _polar(radius: float, angle: float) -> Point:
    """Return a point by its distance and direction from the middle of the image."""
    return MIDDLE + radius * math.cos(angle), MIDDLE + radius * math.sin(angle)


@cache
def _radius() -> Array:
    """Return the distance of each pixel of the canvas from the middle of the image."""
    x, y = pixel_grid()
    return np.hypot(x - MIDDLE, y - MIDDLE)


@cache
def _ring() -> npt.NDArray[np.intp]:
    """Return in which of the rings around the middle, ``1 / RINGS`` image pixels wide, each pixel lies."""
    return (_radius() * RINGS).astype(np.intp)


def _lathe_marks(rng: np.random.Generator) -> Array:
    """Return the relief of concentric grooves, and of the grain between them."""
    position = np.arange(SIZE * RINGS) / RINGS
    grooves = np.zeros_like(position)
    for period, depth in ((1.0, 0.035), (4.0, 0.05), (14.0, 0.08)):
        turns = rng.normal(0, depth, int(SIZE / period) + 1)
        grooves += np.interp(position, np.arange(len(turns)) * period, turns)
    grain = rng.standard_normal((CANVAS, CANVAS), dtype=np.float32)
    return grooves.astype(np.float32).take(_ring()) + 0.015 * grain
