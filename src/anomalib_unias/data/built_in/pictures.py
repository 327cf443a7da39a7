"""One image of the data set, determined by its seed, category, split, kind and number alone."""

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_unias.data.synthetic_defects.dataset import with_defect
from anomalib_unias.data.synthetic_defects.shapes import SHAPES

from .products import PRODUCTS

KINDS = sorted(shape.__name__ for shape in SHAPES)
"""Kinds of defects: the shapes of synthetic defects."""


@dataclass(frozen=True)
class Picture:
    """An image and its defect.

    Args:
        image (NDArray): ``(256, 256, 3)`` uint8 RGB.
        normal (NDArray): The same image without the defect.
        mask (NDArray): Mask of the defect ``(256, 256)``, bool.
    """

    image: NDArray
    normal: NDArray
    mask: NDArray


def picture(category: str, folder: str, index: int, seed: int, defect_draws: int = 1) -> Picture:
    """Make one image.

    Args:
        category (str): Key of ``PRODUCTS``.
        folder (str): Split and kind as in the MVTec layout: ``"train/good"``, ``"test/good"``, ``"test/<kind>"``.
        index (int): Number of the image in its folder.
        seed (int): Seed of the data set.
        defect_draws (int): Number of defects drawn, of which the most visible one is used. Defaults to ``1``.

    Returns:
        Picture: The image; its mask is empty if the kind is ``good``.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{category}/{folder}".encode()), index])
    normal = PRODUCTS[category](rng)
    kind = folder.rpartition("/")[2]
    if kind == "good":
        return Picture(_stored(normal), _stored(normal), np.zeros(normal.shape[:2], bool))
    shapes = {shape: 1.0 for shape in SHAPES if shape.__name__ == kind}
    same = PRODUCTS[category](rng)
    other = PRODUCTS[rng.choice(list(PRODUCTS))](rng)
    draws = [with_defect(normal, same, other, rng, shapes) for _ in range(defect_draws)]
    image, mask = max(draws, key=lambda drawn: _change(normal, *drawn))
    return Picture(_stored(image), _stored(normal), mask)


def _change(normal: NDArray, image: NDArray, mask: NDArray) -> float:
    """Mean change of the pixels in a defect, after a blur: another grain of the same texture is hard to see."""
    return float(np.abs(cv2.GaussianBlur(image - normal, (0, 0), 3))[mask].mean()) if mask.any() else 0.0


def _stored(image: NDArray) -> NDArray:
    return np.round(255 * image).astype(np.uint8)
