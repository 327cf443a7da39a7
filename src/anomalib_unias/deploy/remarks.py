"""Remarks on images that cannot be inspected properly."""

import cv2
import numpy as np

# Grey levels, with a tolerance: JPEG changes white and constant areas slightly.
_WHITE = 254
_FLAT = 4
_MOST = 0.5


def remarks_on(pixels: np.ndarray) -> list[str]:
    """Check whether an image can show the inspected product at all.

    If the camera is overexposed, covered or not connected, no model can find anything in its images.

    Args:
        pixels (np.ndarray): RGB ``(H, W, 3)``, uint8.

    Returns:
        list[str]: ``"constant"`` if no pixel differs from the first by more than 4 grey levels; ``"mostly white"`` if
        more than half of the pixels are at least 254 in all channels, which can also be a white background.

    Example:
        >>> remarks_on(np.full((8, 8, 3), 255, np.uint8))
        ['constant', 'mostly white']
    """
    first = pixels[0, 0].astype(int)
    found = {
        "constant": _share(pixels, first - _FLAT, first + _FLAT) == 1,
        "mostly white": _share(pixels, np.full(3, _WHITE), np.full(3, 255)) > _MOST,
    }
    return [remark for remark, holds in found.items() if holds]


def _share(pixels: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Compute the share of the pixels that lie between two colours in all channels."""
    inside = cv2.inRange(pixels, np.clip(low, 0, 255), np.clip(high, 0, 255))
    return cv2.countNonZero(inside) / inside.size
