"""Images that show nothing are told apart from those that only have bright parts."""

import numpy as np
import pytest

from anomalib_unias.deploy.remarks import remarks_on


def image(colour, share=1.0, height=40, width=50):
    """Noise with a part of one colour."""
    pixels = np.random.default_rng(0).integers(0, 250, (height, width, 3), np.uint8)
    pixels[: round(share * height)] = colour
    return pixels


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (image(255), ["constant", "mostly white"]),
        (image(0), ["constant"]),
        (image((3, 200, 90)), ["constant"]),
        (image(255, height=1, width=1), ["constant", "mostly white"]),
        (image(255, 0.55), ["mostly white"]),
        (image(254, 0.55), ["mostly white"]),
        (image(255, 0.5), []),
        (image((255, 255, 200), 0.9), []),
        (image(0, 0.9), []),
        (image(0, 0.0), []),
    ],
)
def test_remarks(pixels, expected):
    assert remarks_on(pixels) == expected


def test_noise_of_a_covered_camera_is_constant():
    pixels = 3 + np.random.default_rng(0).integers(0, 3, (40, 50, 3), np.uint8)
    assert remarks_on(pixels) == ["constant"]
    pixels[20, 20] = 40
    assert remarks_on(pixels) == []
