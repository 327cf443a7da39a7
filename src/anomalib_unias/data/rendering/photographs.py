"""Photographs that scikit-image ships inside its wheel, and views cut out of them."""

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from .drawing import CANVAS, SIZE, SUPERSAMPLING, Array, Shape

PHOTOGRAPH_SIZE = 512
"""Height and width of the photographs in pixels."""

Labels = npt.NDArray[np.int32]
Grey = npt.NDArray[np.uint8]
Layer = TypeVar("Layer", Grey, Labels)


def require_skimage() -> ModuleType:
    """Return scikit-image.

    Raises:
        ImportError: It is not installed; says how to get it.
    """
    try:
        import skimage
    except ImportError as error:
        msg = (
            "The built-in data set is rendered from photographs of scikit-image, which is not installed. "
            'Run: pip install "anomalib-unias[synthetic]"'
        )
        raise ImportError(msg) from error
    return skimage


@cache
def photograph(name: str) -> Grey:
    """Return a grey photograph, ``(512, 512)``; ``name`` is a function of ``skimage.data`` that needs no download."""
    return np.ascontiguousarray(getattr(require_skimage().data, name)())


@cache
def stones(name: str) -> Labels:
    """Return the stones in a photograph as labels 1, 2, ..., ``(512, 512)``: the basins around bright tops."""
    skimage = require_skimage()
    smooth = cv2.GaussianBlur(photograph(name).astype(np.float32), (0, 0), 2.0)
    tops = skimage.feature.peak_local_max(smooth, min_distance=4)
    markers = np.zeros(smooth.shape, np.int32)
    markers[tuple(tops.T)] = np.arange(1, len(tops) + 1)
    return skimage.segmentation.watershed(-smooth, markers).astype(np.int32)


@cache
def bricks(name: str) -> Labels:
    """Return the bricks in a photograph as labels 1, 2, ..., ``(512, 512)``; 0 is the mortar, which is brighter."""
    smooth = cv2.GaussianBlur(photograph(name).astype(np.float32), (0, 0), 1.0)
    mortar = smooth > cv2.GaussianBlur(smooth, (0, 0), 9.0) + 6
    inside = cv2.erode((~mortar).astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.connectedComponents(inside, connectivity=4, ltype=cv2.CV_32S)[1].astype(np.int32)


@dataclass(frozen=True)
class View:
    """Where a photograph is looked at.

    Args:
        centre: Middle of the view in pixels of the photograph.
        angle: Turn in radians.
        zoom: Pixels of the photograph per image pixel.
    """

    centre: tuple[float, float]
    angle: float
    zoom: float

    @classmethod
    def sample(cls, rng: np.random.Generator, largest_angle: float) -> Self:
        """Draw a view that stays inside the photograph."""
        angle = rng.uniform(-largest_angle, largest_angle)
        zoom = rng.uniform(0.9, 1.0)
        reach = zoom * SIZE / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))) + 1
        x, y = rng.uniform(reach, PHOTOGRAPH_SIZE - reach, size=2)
        return cls((x, y), angle, zoom)

    def cut(self, layer: Layer) -> Layer:
        """Return the part of a photograph or of its labels, ``(512, 512)``, that is seen, ``(CANVAS, CANVAS)``."""
        turn = np.array([[np.cos(self.angle), -np.sin(self.angle)], [np.sin(self.angle), np.cos(self.angle)]])
        linear = turn * self.zoom / SUPERSAMPLING
        shift = np.array(self.centre) - linear @ np.full(2, (CANVAS - 1) / 2)
        interpolation = cv2.INTER_CUBIC if layer.dtype == np.uint8 else cv2.INTER_NEAREST
        flags = interpolation | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(layer, np.column_stack([linear, shift]), (CANVAS, CANVAS), flags=flags)
        return seen.astype(layer.dtype, copy=False)


def linear_light(grey: Grey) -> Array:
    """Return linear light in [0, 1] of grey values as they are stored."""
    return ((grey / np.float32(255)) ** np.float32(2.2)).astype(np.float32)


def outline_of(region: npt.NDArray[np.bool_]) -> Shape:
    """Return a region of the canvas, ``(CANVAS, CANVAS)``, as a shape."""
    outside, inside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (~region, region)
    )
    return Shape(((outside - inside) / SUPERSAMPLING).astype(np.float32))
