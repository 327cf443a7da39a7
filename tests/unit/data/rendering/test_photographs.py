"""The photographs are in the wheel of scikit-image, and views stay inside of them."""

import sys
from importlib.metadata import files

import numpy as np
import pytest

from anomalib_unias.data.rendering import brick, gravel
from anomalib_unias.data.rendering.drawing import CANVAS
from anomalib_unias.data.rendering.photographs import (
    PHOTOGRAPH_SIZE,
    View,
    bricks,
    outline_of,
    photograph,
    require_skimage,
    stones,
)

NAMES = (brick.PHOTOGRAPH, gravel.PHOTOGRAPH)


@pytest.mark.parametrize("name", NAMES)
def test_photograph_is_inside_the_wheel(name: str) -> None:
    shipped = {str(file) for file in files("scikit-image") or ()}
    assert f"skimage/data/{name}.png" in shipped
    assert photograph(name).shape == (PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE)
    assert photograph(name).dtype == np.uint8


def test_missing_scikit_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r'pip install "anomalib-unias\[synthetic\]"'):
        require_skimage()


@pytest.mark.parametrize("largest_angle", [0.1, np.pi])
def test_views_stay_inside_the_photograph(largest_angle: float) -> None:
    rng = np.random.default_rng(0)
    white = np.full((PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE), 255, np.uint8)
    for _ in range(20):
        assert View.sample(rng, largest_angle).cut(white).min() == 255


def test_view_shows_its_centre_in_the_middle() -> None:
    column = np.tile(np.arange(PHOTOGRAPH_SIZE, dtype=np.int32), (PHOTOGRAPH_SIZE, 1))
    seen = View(centre=(200, 300), angle=0.0, zoom=1.0).cut(column)
    assert seen[CANVAS // 2, CANVAS // 2] == pytest.approx(200, abs=1)
    assert seen[0, -1] - seen[0, 0] == pytest.approx(CANVAS / 2, abs=1)


def test_stones_cover_the_photograph() -> None:
    labels = stones(gravel.PHOTOGRAPH)
    sizes = np.bincount(labels.ravel())
    assert sizes[0] == 0
    assert 300 < len(sizes) < 3000


def test_bricks_are_darker_than_the_mortar() -> None:
    labels, grey = bricks(brick.PHOTOGRAPH), photograph(brick.PHOTOGRAPH)
    assert 50 < labels.max() < 300
    assert 0.1 < (labels == 0).mean() < 0.45
    assert grey[labels > 0].mean() < grey[labels == 0].mean() - 20


def test_outline_of_a_region() -> None:
    region = np.zeros((CANVAS, CANVAS), bool)
    region[100:200, 100:300] = True
    shape = outline_of(region)
    assert ((shape.distance < 0) == region).all()
    assert shape.distance[150, 340] == pytest.approx(20, abs=1)
