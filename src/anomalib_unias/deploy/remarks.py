"""What is to be said of an image besides its result."""

import cv2
import numpy as np

# Of grey levels: JPEG leaves white and flat areas not quite so.
_WHITE = 254
_FLAT = 4
_MOST = 0.5


def remarks_on(pixels: np.ndarray) -> list[str]:
    """Look whether an image can show what is inspected.

    A camera that is overexposed, covered or not connected gives images in which nothing can be found, be the model
    what it may.

    Args:
        pixels (np.ndarray): RGB ``(H, W, 3)``, uint8.

    Returns:
        list[str]: ``"constant"`` if no pixel differs from the first by more than 4 grey levels; ``"mostly white"`` if
        more than half of the pixels are at least 254 in all channels, which a white background can be too.

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
    """Share of the pixels that lie between two colours in all channels."""
    inside = cv2.inRange(pixels, np.clip(low, 0, 255), np.clip(high, 0, 255))
    return cv2.countNonZero(inside) / inside.size
