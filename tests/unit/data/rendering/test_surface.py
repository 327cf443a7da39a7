"""Light behaves as light does."""

import math

import numpy as np
import pytest

from anomalib_unias.data.rendering.drawing import SIZE, Point, box, disc
from anomalib_unias.data.rendering.surface import Light, Surface, shade, turn_and_shift

GREY = (0.4, 0.4, 0.4)
FROM_THE_LEFT = Light(
    azimuth=math.pi, elevation=0.8, ambient=0.3, key=0.8, fill=0.0, colour=(1.0, 1.0, 1.0), falloff=(0.0, 0.0)
)


def test_flat_surface_is_evenly_lit() -> None:
    expected = 0.4 * (0.3 + 0.8 * math.sin(0.8))
    np.testing.assert_allclose(shade(Surface.plain(GREY), FROM_THE_LEFT), expected, rtol=1e-5)


def test_light_falls_off_and_has_a_colour() -> None:
    light = Light(math.pi, 0.8, 0.3, 0.8, 0.0, colour=(1.1, 1.0, 0.9), falloff=(-0.2, 0.0))
    seen = shade(Surface.plain(GREY), light)
    assert seen[100, 10, 1] > seen[100, -10, 1]
    np.testing.assert_allclose(seen[..., 0] / seen[..., 2], 1.1 / 0.9, rtol=1e-4)


def test_slope_towards_the_lamp_is_brighter() -> None:
    surface = Surface.plain(GREY)
    surface.lift(disc((SIZE / 2, SIZE / 2), 20), amount=3, bevel=20)
    seen = shade(surface, FROM_THE_LEFT)[SIZE // 2, :, 0]
    assert seen[SIZE // 2 - 10] > seen[5] > seen[SIZE // 2 + 10]


def test_block_casts_a_shadow_away_from_the_lamp() -> None:
    surface = Surface.plain(GREY)
    surface.lift(box((SIZE / 2, SIZE / 2), (20, 40)), amount=12)
    seen = shade(surface, FROM_THE_LEFT)[SIZE // 2, :, 0]
    open_field = seen[5]
    assert seen[SIZE // 2 + 14] == pytest.approx(0.4 * 0.3, rel=0.05)
    assert seen[SIZE // 2 - 18] == pytest.approx(open_field, rel=1e-3)
    assert seen[SIZE // 2 + 40] == pytest.approx(open_field, rel=1e-3)


def test_gloss_adds_a_highlight() -> None:
    dull, glossy = (shade(Surface.plain(GREY, gloss), FROM_THE_LEFT).mean() for gloss in (0.0, 0.5))
    assert glossy > dull


def test_paint_blends_by_opacity() -> None:
    surface = Surface.plain(GREY)
    surface.paint(disc((50, 50), 10), (0.8, 0.0, 0.4), opacity=0.5)
    np.testing.assert_allclose(surface.albedo[100, 100], (0.6, 0.2, 0.4), rtol=1e-5)


@pytest.mark.parametrize(("angle", "shift"), [(0.0, (10.0, -5.0)), (math.pi / 2, (0.0, 0.0)), (0.7, (3.0, 8.0))])
def test_moved_part_is_where_the_pose_says(angle: float, shift: Point) -> None:
    part = Surface.plain(GREY)
    part.height -= 1
    part.lift(disc((90, 110), 6), amount=5)
    pose = turn_and_shift(angle, shift, scale=1.1)
    background = Surface.plain((0.1, 0.1, 0.1))
    moved = part.moved(pose, background)
    rows, columns = np.nonzero(moved.height > 2)
    found = np.array([columns.mean(), rows.mean()]) / 2 + 0.25
    np.testing.assert_allclose(found, pose @ (90, 110, 1), atol=0.3)
    assert moved.albedo[5, 5, 0] == pytest.approx(0.1)
    assert background.height.max() == 0


def test_copy_is_independent() -> None:
    surface = Surface.plain(GREY)
    surface.copy().lift(disc((50, 50), 10), amount=2)
    assert surface.height.max() == 0
