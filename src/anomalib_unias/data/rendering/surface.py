"""What the camera looks at: relief, colour and gloss, and how light falls on it."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from typing_extensions import Self

from .drawing import CANVAS, SIZE, SUPERSAMPLING, Array, Point, Shape, smooth_noise

Colour: TypeAlias = tuple[float, float, float]
"""Linear red, green and blue."""

SHININESS_DOUBLINGS = 5
"""A highlight falls off with the cosine to the power of 2 to this number."""

SHADOW_STEP = 1.5
"""Distance in image pixels at which obstacles between a pixel and the lamp are looked for."""


@dataclass
class Surface:
    """A relief seen from above.

    Args:
        height: ``(CANVAS, CANVAS)``, in image pixels towards the camera.
        albedo: ``(CANVAS, CANVAS, 3)``, linear RGB, share of the light that is scattered, in [0, 1].
        gloss: ``(CANVAS, CANVAS)``, strength of the mirror-like reflection.
    """

    height: Array
    albedo: Array
    gloss: Array

    @classmethod
    def plain(cls, colour: Colour, gloss: float = 0.0) -> Self:
        """Return a flat surface of one colour."""
        return cls(
            height=np.zeros((CANVAS, CANVAS), np.float32),
            albedo=np.full((CANVAS, CANVAS, 3), colour, np.float32),
            gloss=np.full((CANVAS, CANVAS), gloss, np.float32),
        )

    def copy(self) -> "Surface":
        """Return an independent copy."""
        return Surface(self.height.copy(), self.albedo.copy(), self.gloss.copy())

    def paint(
        self,
        shape: Shape,
        colour: Colour,
        gloss: float = 0.0,
        opacity: float = 1.0,
        softness: float = 1 / SUPERSAMPLING,
    ) -> None:
        """Cover a region with a colour (linear RGB) and a gloss."""
        cover = opacity * shape.coverage(softness)
        albedo = self.albedo[shape.window]
        albedo += cover[..., None] * (rgb(colour) - albedo)
        surface_gloss = self.gloss[shape.window]
        surface_gloss += cover * (gloss - surface_gloss)

    def lift(self, shape: Shape, amount: float, bevel: float = 1.0) -> None:
        """Raise a region by ``amount`` image pixels (lower it if negative), over an edge ``bevel`` pixels wide."""
        self.height[shape.window] += amount * shape.profile(bevel)

    def moved(self, pose: Array, background: "Surface") -> "Surface":
        """Return this surface after an affine motion, laid on a background.

        Args:
            pose: ``(2, 3)`` matrix that maps points of this surface to points of the result, in image pixels.
            background: What shows where this surface has no material, that is where its height is negative.
        """
        moved = Surface(*(_warp(layer, pose) for layer in (self.height, self.albedo, self.gloss)))
        material = np.clip(moved.height * SUPERSAMPLING, 0, 1)
        for layer, behind, cover in (
            (moved.albedo, background.albedo, material[..., None]),
            (moved.gloss, background.gloss, material),
        ):
            layer -= behind
            layer *= cover
            layer += behind
        np.maximum(moved.height, 0, out=moved.height)
        moved.height += background.height
        return moved


def rgb(colour: Colour) -> Array:
    """Return a colour as an array that mixes with those of a surface."""
    return np.array(colour, dtype=np.float32)


def turn_and_shift(angle: float, shift: Point, scale: float | Point = 1.0) -> Array:
    """Return the ``(2, 3)`` matrix that scales and turns about the middle of the image, then shifts."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = np.diag(np.broadcast_to(scale, 2)) @ turn
    middle = np.full(2, SIZE / 2)
    return np.column_stack([linear, middle + shift - linear @ middle])


def _warp(layer: Array, pose: Array) -> Array:
    # The pose is in image pixels between pixel corners, OpenCV counts canvas pixels between pixel centres.
    linear, shift = pose[:, :2], pose[:, 2]
    centre = linear @ np.full(2, 0.5) - 0.5
    matrix = np.column_stack([linear, shift * SUPERSAMPLING + centre])
    moved = cv2.warpAffine(layer, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Light:
    """A lamp at the side, a weaker one opposite and diffuse light from above.

    Args:
        azimuth: Direction of the lamp in radians.
        elevation: Height of the lamp above the surface in radians.
        ambient: Strength of the diffuse light.
        key: Strength of the lamp.
        fill: Strength of the second lamp.
        colour: Linear RGB of all the light.
        falloff: Change of the brightness from one side of the image to the other, along x and y.
    """

    azimuth: float
    elevation: float
    ambient: float
    key: float
    fill: float
    colour: Colour
    falloff: Point

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw the light of one photograph: the lamp moves a little, ages and warms up."""
        azimuth = math.radians(225) + rng.normal(0, 0.25)
        distance = rng.uniform(0.0, 0.2)
        warmth = rng.normal(0, 0.025)
        exposure = math.exp(rng.normal(0, 0.05))
        return cls(
            azimuth=azimuth,
            elevation=math.radians(rng.uniform(40, 58)),
            ambient=exposure * rng.uniform(0.32, 0.42),
            key=exposure * rng.uniform(0.72, 0.88),
            fill=exposure * rng.uniform(0.12, 0.22),
            colour=(1 + warmth, 1.0, 1 - warmth),
            falloff=(distance * math.cos(azimuth), distance * math.sin(azimuth)),
        )

    def weakened(self, seen: Array) -> Array:
        """Return white, even light, ``(SIZE, SIZE, 3)``, in the colour of this light and with its falloff."""
        position = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5
        falloff = 1 + self.falloff[0] * position[None, :] + self.falloff[1] * position[:, None]
        return seen * falloff[..., None] * rgb(self.colour)


def shade(surface: Surface, light: Light) -> Array:
    """Return the light that reaches each pixel of the camera, ``(SIZE, SIZE, 3)``, linear RGB, not clipped.

    Lambertian scattering plus Blinn-Phong highlights [1], the camera looks straight down.

    References:
        [1] James F. Blinn: Models of light reflection for computer synthesized pictures, SIGGRAPH 1977.
    """
    slope_y, slope_x = (np.gradient(surface.height * SUPERSAMPLING, axis=axis) for axis in (0, 1))
    flatness = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lamps = (
        (light.azimuth, light.elevation, light.key * _lit(surface.height, light)),
        (light.azimuth + math.radians(160), math.radians(60), light.fill),
    )
    scattered, mirrored = np.full_like(flatness, light.ambient), np.zeros_like(flatness)
    for azimuth, elevation, strength in lamps:
        facing_lamp = _facing(slope_x, slope_y, azimuth, elevation)
        facing_lamp *= flatness
        facing_lamp *= strength
        scattered += facing_lamp
        # The direction halfway between the lamp and the camera, which is at 90 degrees.
        highlight = _facing(slope_x, slope_y, azimuth, (elevation + math.pi / 2) / 2)
        highlight *= flatness
        for _ in range(SHININESS_DOUBLINGS):
            highlight *= highlight
        highlight *= strength
        mirrored += highlight
    mirrored *= surface.gloss
    seen = surface.albedo * scattered[..., None]
    seen += mirrored[..., None]
    pixels = cv2.resize(seen, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return light.weakened(pixels.astype(np.float32, copy=False))


def _facing(slope_x: Array, slope_y: Array, azimuth: float, elevation: float) -> Array:
    """Return the product of a direction and the normals of the relief, not below 0; the normals have z = 1."""
    x, y = math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation)
    product = x * slope_x
    product += y * slope_y
    np.subtract(math.sin(elevation), product, out=product)
    return np.maximum(product, 0, out=product)


def _lit(height: Array, light: Light) -> Array:
    """Return which pixels the lamp reaches, ``(CANVAS, CANVAS)`` in [0, 1], with soft edges of the shadows."""
    coarse = cv2.resize(height, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    lowest, highest, _, _ = cv2.minMaxLoc(coarse)
    rise = SHADOW_STEP * math.tan(light.elevation)
    overhang = np.full_like(coarse, -np.inf)
    for step in range(1, int((highest - lowest) / rise) + 2):
        dx, dy = (step * SHADOW_STEP * f(light.azimuth) for f in (math.cos, math.sin))
        towards_lamp = np.array([[1, 0, -dx], [0, 1, -dy]])
        blocker = cv2.warpAffine(coarse, towards_lamp, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        overhang = np.maximum(overhang, blocker - step * rise - coarse)
    lit = 1 - np.clip(overhang / 0.6, 0, 1)
    soft = cv2.GaussianBlur(lit.astype(np.float32), (0, 0), 0.9)
    return cv2.resize(soft, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def mat(rng: np.random.Generator, colour: Colour, grain: float = 0.12) -> Surface:
    """Return the rough mat that parts lie on."""
    surface = Surface.plain(colour, gloss=0.02)
    tone = 1 + 0.06 * smooth_noise(rng, 90, octaves=2) + grain * smooth_noise(rng, 1.5)
    surface.albedo *= np.maximum(tone, 0.2)[..., None]
    return surface
