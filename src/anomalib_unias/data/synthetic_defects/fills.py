"""Fills of synthetic defects: images ``(H, W, 3)``, roughly in [0, 1], that replace the normal image in a mask."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Mean difference between the colour channels that compression may cause in a grey image.
_GREY = 0.01


@dataclass(frozen=True)
class Scene:
    """Inputs of a fill.

    Args:
        image (NDArray): The normal image ``(H, W, 3)``, in [0, 1].
        mask (NDArray): Mask of the defect ``(H, W)``, in [0, 1].
        same (NDArray): Another normal image of the same category, ``(H, W, 3)``.
        other (NDArray): A normal image of any category, ``(H, W, 3)``.
        rng (np.random.Generator): Random numbers.
    """

    image: NDArray
    mask: NDArray
    same: NDArray
    other: NDArray
    rng: np.random.Generator

    @property
    def colours(self) -> int:
        """Number of colours that may change independently: 1 for grey images."""
        return 1 if np.abs(self.image - self.image.mean(axis=2, keepdims=True)).mean() < _GREY else 3


Fill = Callable[[Scene], NDArray]


def foreign(scene: Scene) -> NDArray:
    """Part of an image of any category."""
    return moved(scene.other, scene.rng)


def misplaced(scene: Scene) -> NDArray:
    """Part of another image of the same category, from another position."""
    return moved(scene.same, scene.rng)


def shifted(scene: Scene) -> NDArray:
    """The image itself, a little shifted."""
    return moved(scene.image, scene.rng, angle=5, scale=0.05, shift=0.2)


def turned(scene: Scene) -> NDArray:
    """The image itself, rotated by any angle."""
    return moved(scene.image, scene.rng)


def exposed(scene: Scene) -> NDArray:
    """The image itself, darker or brighter."""
    strength = scene.rng.uniform(0.2, 0.95)
    return scene.image * strength if scene.rng.random() < 0.5 else 1 - (1 - scene.image) * strength


def tinted(scene: Scene) -> NDArray:
    """Another colour over the same structure."""
    return scene.image + scene.rng.uniform(-0.3, 0.3, scene.colours)


def plain(scene: Scene) -> NDArray:
    """One colour, mostly taken from the image itself, with little noise."""
    height, width = scene.image.shape[:2]
    pixel = scene.image[scene.rng.integers(height), scene.rng.integers(width)]
    colour = pixel if scene.rng.random() < 0.7 else scene.rng.uniform(0, 1, scene.colours)
    return colour + 0.03 * scene.rng.standard_normal((height, width, 1))


def rough(scene: Scene) -> NDArray:
    """Noise over the same structure, with a grain of 1 to 8 pixels."""
    height, width = scene.image.shape[:2]
    grain = int(2 ** scene.rng.integers(0, 4))
    coarse = scene.rng.standard_normal((height // grain, width // grain, scene.colours)).astype(np.float32)
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)
    return scene.image + scene.rng.uniform(0.05, 0.3) * noise


def missing(scene: Scene) -> NDArray:
    """The image with the defect area inpainted from its surroundings, or blurred if the area is too large for that."""
    hole = (scene.mask > 0.3).astype(np.uint8)
    if hole.mean() < 0.1:
        pixels = (255 * scene.image).astype(np.uint8)
        return cv2.inpaint(pixels, cv2.dilate(hole, np.ones((3, 3))), 3, cv2.INPAINT_TELEA) / np.float32(255)
    return cv2.GaussianBlur(scene.image, (0, 0), scene.rng.uniform(1.5, 8))


FILLS: dict[Fill, float] = {
    foreign: 0.1,
    misplaced: 0.2,
    shifted: 0.1,
    turned: 0.1,
    exposed: 0.1,
    tinted: 0.1,
    plain: 0.1,
    rough: 0.1,
    missing: 0.1,
}


def moved(
    image: NDArray, rng: np.random.Generator, angle: float = 180, scale: float = 0.3, shift: float = 0.3
) -> NDArray:
    """Rotate, scale and shift an image at random, mirrored at its border.

    Args:
        image (NDArray): ``(H, W, 3)``.
        rng (np.random.Generator): Random numbers.
        angle (float): Largest angle in degrees. Defaults to ``180``.
        scale (float): Largest relative change of size. Defaults to ``0.3``.
        shift (float): Largest shift as a share of the width. Defaults to ``0.3``.

    Returns:
        NDArray: ``(H, W, 3)``.
    """
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), rng.uniform(-angle, angle), 1 + rng.uniform(-scale, scale)
    )
    matrix[:, 2] += rng.uniform(-shift, shift, 2) * width
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
