"""From light to a photograph, and from a pair of photographs to the exact mask of a defect."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from .drawing import SIZE, Array

VISIBLE_CHANGE = 4 / 255
"""Smallest change of a colour channel, in [0, 1], that belongs to a defect. The noise of the camera is about half."""

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """A camera with its focus and its noise.

    Args:
        blur: Standard deviation of the blur of the lens in image pixels.
        noise: ``(SIZE, SIZE, 3)``, noise of the sensor, added to values in [0, 1].
    """

    blur: float
    noise: Array

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """Draw the focus and the noise of one photograph."""
        grain = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
        return cls(blur=rng.uniform(0.35, 0.6), noise=grain * np.float32(rng.uniform(0.005, 0.009)))

    def picture(self, light: Array) -> Array:
        """Return the noise-free picture, ``(SIZE, SIZE, 3)`` in [0, 1], of light (linear RGB)."""
        focused = cv2.GaussianBlur(light, (0, 0), self.blur)
        return (np.clip(focused, 0, 1) ** (1 / 2.2)).astype(np.float32)

    def develop(self, picture: Array) -> Image:
        """Add the noise and return the stored image, ``(SIZE, SIZE, 3)`` uint8 RGB."""
        return np.clip(np.rint((picture + self.noise) * 255), 0, 255).astype(np.uint8)


def changed_pixels(clean: Array, defective: Array) -> npt.NDArray[np.bool_]:
    """Return where two noise-free pictures differ visibly, ``(SIZE, SIZE)``.

    Gaps of one pixel are closed and specks of one or two pixels are dropped, so that the mask is a
    region and not the noise of a threshold.
    """
    visible = (np.abs(defective - clean).max(axis=2) > VISIBLE_CHANGE).astype(np.uint8)
    closed = cv2.morphologyEx(visible, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] > 2
    large[0] = False
    return large[labels]
