"""Defects that can happen to any surface."""

from collections.abc import Callable

import numpy as np

from .drawing import (
    Array,
    Point,
    Shape,
    blob,
    distance_to,
    log_uniform,
    pixel_grid,
    smooth_noise,
    stroke,
    wandering_path,
)
from .scene import Defect, Scene
from .surface import Colour, Surface, rgb

Mark = Callable[[Surface, Point, np.random.Generator], None]
"""Changes a surface in place, around a point."""

Range = tuple[float, float]


def marked_with(mark: Mark) -> Defect:
    """Return the defect that leaves a mark somewhere on the product."""

    def defect(scene: Scene, rng: np.random.Generator) -> Surface:
        marked = scene.surface.copy()
        mark(marked, scene.point(rng), rng)
        return marked

    return defect


def scratch(surface: Surface, centre: Point, rng: np.random.Generator, colour: Colour, gloss: float) -> None:
    """Cut a thin groove that fades at its ends and lays fresh material bare."""
    length = log_uniform(rng, 25, 120)
    half_width = log_uniform(rng, 0.6, 1.5)
    path = wandering_path(rng, centre, length, bend=0.5)
    fading = np.clip(1 - (_distance_from(centre) / (0.5 * length + 1)) ** 2, 0, 1)
    groove = np.clip(1 - distance_to([path]) / half_width, 0, 1) * np.sqrt(fading)
    surface.height -= log_uniform(rng, 0.3, 0.9) * half_width * groove
    cover = log_uniform(rng, 0.35, 0.95) * groove
    surface.albedo += cover[..., None] * (rgb(colour) - surface.albedo)
    surface.gloss += cover * (gloss - surface.gloss)


def stain(surface: Surface, centre: Point, rng: np.random.Generator, tint: Colour, gloss: float) -> None:
    """Soak a patch: multiply its colour by ``tint``, draw its gloss towards ``gloss``, more so at a dried rim."""
    shape = blob(rng, centre, log_uniform(rng, 7, 28))
    rim = rng.uniform(0, 0.6) * np.exp(-(((shape.distance + 1.5) / 1.5) ** 2))
    cover = np.clip(log_uniform(rng, 0.4, 1.0) * shape.coverage(softness=rng.uniform(1.5, 5)) * (1 + rim), 0, 1)
    surface.albedo[shape.window] *= 1 + cover[..., None] * (rgb(tint) - 1)
    surface_gloss = surface.gloss[shape.window]
    surface_gloss += cover * (gloss - surface_gloss)


def dent(surface: Surface, centre: Point, rng: np.random.Generator) -> None:
    """Press a smooth hollow in."""
    radius = log_uniform(rng, 5, 16)
    depth = radius * log_uniform(rng, 0.12, 0.4)
    surface.height -= depth * np.exp(-2 * (_distance_from(centre) / radius) ** 2)


def thread(
    surface: Surface,
    centre: Point,
    rng: np.random.Generator,
    colours: tuple[Colour, ...],
    width: Range = (0.9, 2.4),
    bend: Range = (0.8, 4.0),
) -> None:
    """Lay something long and thin down; it stands up a little and casts a shadow."""
    thickness = log_uniform(rng, *width)
    path = wandering_path(rng, centre, log_uniform(rng, 35, 130), bend=rng.uniform(*bend))
    shape = stroke([path], thickness)
    surface.lift(shape, amount=thickness, bevel=0.5 * thickness)
    surface.paint(shape, colours[rng.integers(len(colours))], gloss=0.05, opacity=rng.uniform(0.7, 1.0))


def hole(surface: Surface, centre: Point, rng: np.random.Generator, colour: Colour, radius: Range = (4, 15)) -> None:
    """Break a rough-edged piece out, down to material of another colour."""
    dig(surface, blob(rng, centre, log_uniform(rng, *radius)), rng, colour, depth=rng.uniform(2, 5))


def dig(surface: Surface, shape: Shape, rng: np.random.Generator, colour: Colour, depth: float) -> None:
    """Take the material of a region out, down to a rough bottom of the given colour."""
    roughness = smooth_noise(rng, 5, octaves=3)[shape.window]
    inside = shape.profile(bevel=2)
    surface.height[shape.window] -= depth * inside * (1 + 0.12 * roughness)
    tone = np.maximum(1 + 0.2 * roughness, 0.3) * (1 - 0.4 * inside)
    cover = shape.coverage(softness=1)
    albedo = surface.albedo[shape.window]
    albedo += cover[..., None] * (tone[..., None] * rgb(colour) - albedo)
    surface.gloss[shape.window] *= 1 - cover


def crack(surface: Surface, centre: Point, rng: np.random.Generator, colour: Colour) -> None:
    """Split the surface along a jagged line that may have branches."""
    main = _jagged_path(rng, centre, log_uniform(rng, 40, 160))
    starts = main[rng.integers(len(main), size=rng.integers(0, 3))]
    branches = [_jagged_path(rng, (x, y), rng.uniform(0.2, 0.5) * 2 * len(main)) for x, y in starts]
    width = log_uniform(rng, 0.9, 2.4) * (1 + 0.35 * smooth_noise(rng, 12))
    shape = Shape(distance_to([main, *branches]) - np.maximum(width, 0.3) / 2)
    surface.paint(shape, colour, opacity=rng.uniform(0.5, 0.95))
    surface.lift(shape, amount=-0.6, bevel=0.5)


def _jagged_path(rng: np.random.Generator, middle: Point, length: float) -> Array:
    path = wandering_path(rng, middle, length, bend=1.2)
    return path + 0.7 * rng.standard_normal(path.shape)


def _distance_from(centre: Point) -> Array:
    x, y = pixel_grid()
    return np.hypot(x - centre[0], y - centre[1])
