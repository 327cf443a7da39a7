"""A heap of crushed stone, from a photograph."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from .defects import hole, marked_with, stain, thread
from .drawing import SIZE, SUPERSAMPLING, Point, log_uniform, smooth_noise
from .photographs import Labels, View, linear_light, outline_of, photograph, stones
from .scene import Defect, Scene
from .surface import Surface

PHOTOGRAPH = "gravel"

ROCKS = np.array([(1.0, 1.0, 1.0), (1.06, 1.0, 0.93), (1.04, 0.98, 0.96), (0.97, 1.0, 1.04)], np.float32)
"""Tints of the stones that belong here: granite, buff, pinkish and bluish."""

FOREIGN_ROCKS = np.array(
    [(1.8, 0.55, 0.35), (0.16, 0.16, 0.19), (2.2, 2.2, 2.25), (0.4, 1.1, 0.55), (1.6, 1.05, 0.3)], np.float32
)
"""Tints of the stones that do not: brick, coal, quartz, bottle glass and slag."""


@dataclass(frozen=True, eq=False)
class Gravel(Scene):
    """A view of the heap; every stone has a tint of its own.

    Args:
        view: Part of the photograph.
        seed: Seed of the tints.
    """

    view: View
    seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw a view in any direction."""
        return cls(View.sample(rng, largest_angle=np.pi), seed=int(rng.integers(2**32)))

    @cached_property
    def labels(self) -> Labels:
        """The stones that are seen, ``(CANVAS, CANVAS)``."""
        return self.view.cut(stones(PHOTOGRAPH))

    def draw(self) -> Surface:
        """Return the photographed stones in their tints."""
        rng = np.random.default_rng(self.seed)
        count = int(stones(PHOTOGRAPH).max()) + 1
        tints = ROCKS[rng.choice(len(ROCKS), size=count, p=[0.55, 0.2, 0.1, 0.15])]
        tints = tints * np.exp(rng.normal(0, 0.06, (count, 1))).astype(np.float32)
        surface = Surface.plain((0.95, 0.93, 0.9), gloss=0.03)
        grey = linear_light(self.view.cut(photograph(PHOTOGRAPH)))
        dampness = 1 + 0.05 * smooth_noise(rng, 120, octaves=2)
        surface.albedo *= (grey * dampness)[..., None] * tints[self.labels]
        return surface

    def point(self, rng: np.random.Generator) -> Point:
        """Draw a place that is not at the border."""
        x, y = rng.uniform(20, SIZE - 20, size=2)
        return float(x), float(y)

    def with_foreign_stone(self, rng: np.random.Generator) -> Surface:
        """Return the heap with one stone of another kind in it."""
        x, y = (int(c * SUPERSAMPLING) for c in self.point(rng))
        stone = outline_of(self.labels == self.labels[y, x])
        tint = FOREIGN_ROCKS[rng.integers(len(FOREIGN_ROCKS))]
        cover = log_uniform(rng, 0.45, 0.9) * stone.coverage(softness=1.5)
        mixed = self.surface.copy()
        mixed.albedo *= 1 + cover[..., None] * (tint - 1)
        return mixed

    defects: ClassVar[Mapping[str, Defect]] = {
        "foreign_stone": with_foreign_stone,
        "hole": marked_with(partial(hole, colour=(0.08, 0.075, 0.07), radius=(7, 18))),
        "stain": marked_with(partial(stain, tint=(0.3, 0.27, 0.24), gloss=0.25)),
        "thread": marked_with(
            partial(thread, colours=((0.8, 0.78, 0.7), (0.05, 0.2, 0.55), (0.6, 0.08, 0.05)), width=(1.4, 3.0))
        ),
        "twig": marked_with(
            partial(thread, colours=((0.2, 0.12, 0.06), (0.3, 0.2, 0.1)), width=(3.0, 6.0), bend=(0.1, 0.9))
        ),
    }
