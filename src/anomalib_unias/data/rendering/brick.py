"""Masonry, from a photograph."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from .defects import crack, dig, hole, marked_with, stain
from .drawing import SIZE, SUPERSAMPLING, Point, Shape, disc, log_uniform, smooth_noise
from .photographs import Labels, View, bricks, linear_light, outline_of, photograph
from .scene import Defect, Scene
from .surface import Surface

PHOTOGRAPH = "brick"

CLAY = np.array([(1.75, 0.95, 0.72), (1.5, 0.9, 0.72), (1.6, 1.05, 0.8), (1.25, 0.85, 0.75)], np.float32)
"""Tints of the bricks."""

MORTAR = np.array((1.0, 0.97, 0.9), np.float32)


@dataclass(frozen=True, eq=False)
class Brick(Scene):
    """A view of the wall; every brick has a tint of its own.

    Args:
        view: Part of the photograph.
        seed: Seed of the tints.
    """

    view: View
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw a view that is nearly upright."""
        return cls(View.sample(rng, largest_angle=0.14), seed=int(rng.integers(2**32)))

    @cached_property
    def labels(self) -> Labels:
        """The bricks that are seen, ``(CANVAS, CANVAS)``; 0 is the mortar."""
        return self.view.cut(bricks(PHOTOGRAPH))

    def draw(self) -> Surface:
        """Return the photographed bricks in their tints."""
        rng = np.random.default_rng(self.seed)
        count = int(bricks(PHOTOGRAPH).max()) + 1
        tints = CLAY[rng.integers(len(CLAY), size=count)] * np.exp(rng.normal(0, 0.06, (count, 1))).astype(np.float32)
        tints[0] = MORTAR
        surface = Surface.plain((1.0, 1.0, 1.0), gloss=0.02)
        grey = linear_light(self.view.cut(photograph(PHOTOGRAPH)))
        weather = 1 + 0.06 * smooth_noise(rng, 110, octaves=2) + 0.04 * smooth_noise(rng, 3, octaves=2)
        surface.albedo *= (grey * weather)[..., None] * tints[self.labels]
        return surface

    def point(self, rng: np.random.Generator) -> Point:
        """Draw a place that is not at the border."""
        x, y = rng.uniform(25, SIZE - 25, size=2)
        return float(x), float(y)

    def without_brick(self, rng: np.random.Generator) -> Surface:
        """Return the wall with a hollow where a brick has fallen out."""
        x, y = self._point_where(self.labels > 0, rng)
        brick = outline_of(self.labels == self.labels[y, x])
        damaged = self.surface.copy()
        dig(damaged, brick, rng, colour=(0.2, 0.16, 0.12), depth=rng.uniform(3, 7))
        return damaged

    def without_mortar(self, rng: np.random.Generator) -> Surface:
        """Return the wall with a joint that has crumbled away."""
        x, y = self._point_where(self.labels == 0, rng)
        around = disc((x / SUPERSAMPLING, y / SUPERSAMPLING), log_uniform(rng, 6, 26))
        joints = outline_of(self.labels == 0).distance[around.window]
        damaged = self.surface.copy()
        crumbled = Shape(np.maximum(joints + 0.3, around.distance), around.window)
        dig(damaged, crumbled, rng, colour=(0.13, 0.11, 0.09), depth=rng.uniform(1.5, 3))
        return damaged

    def _point_where(self, region: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
        """Draw a canvas pixel of a region, not at the border."""
        margin = 25 * SUPERSAMPLING
        rows, columns = np.nonzero(region[margin:-margin, margin:-margin])
        chosen = rng.integers(len(rows))
        return int(columns[chosen]) + margin, int(rows[chosen]) + margin

    defects: ClassVar[Mapping[str, Defect]] = {
        "crack": marked_with(partial(crack, colour=(0.03, 0.025, 0.02))),
        "hole": marked_with(partial(hole, colour=(0.42, 0.22, 0.15))),
        "missing_brick": without_brick,
        "missing_mortar": without_mortar,
        "stain": marked_with(partial(stain, tint=(0.45, 0.42, 0.4), gloss=0.06)),
    }
