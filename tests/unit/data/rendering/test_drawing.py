"""Shapes cover what their size says, and noise has the deviation it promises."""

import math

import numpy as np
import pytest

from anomalib_unias.data.rendering.drawing import (
    CANVAS,
    SIZE,
    SUPERSAMPLING,
    Shape,
    blob,
    box,
    disc,
    distance_to,
    log_uniform,
    smooth_noise,
    stroke,
    text,
    wandering_path,
)

MIDDLE = (SIZE / 2, SIZE / 2)


def _area(shape: Shape) -> float:
    """Area in image pixels."""
    return float(shape.coverage().sum()) / SUPERSAMPLING**2


@pytest.mark.parametrize("radius", [1.5, 7.3, 40.0])
def test_disc_has_the_area_of_a_circle(radius: float) -> None:
    assert _area(disc((100.3, 90.7), radius)) == pytest.approx(math.pi * radius**2, rel=0.03)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2])
def test_box_has_the_area_of_a_rectangle(angle: float) -> None:
    assert _area(box((100.3, 90.7), (30, 12), angle)) == pytest.approx(360, rel=0.03)


def test_box_is_turned() -> None:
    upright = box(MIDDLE, (40, 4), math.pi / 2)
    whole = np.zeros((CANVAS, CANVAS))
    whole[upright.window] = upright.coverage()
    rows, columns = np.nonzero(whole)
    assert np.ptp(rows) > 5 * np.ptp(columns)


def test_stroke_has_its_width() -> None:
    line = np.array([[50.0, 60.0], [150.0, 60.0]])
    assert _area(stroke([line], width=4)) == pytest.approx(4 * 100 + math.pi * 4, rel=0.1)


def test_distance_to_a_line() -> None:
    distance = distance_to([np.array([[20.0, 100.0], [200.0, 100.0]])])
    assert distance[int(130 * SUPERSAMPLING), int(100 * SUPERSAMPLING)] == pytest.approx(30, abs=0.6)


@pytest.mark.parametrize("seed", range(20))
def test_blob_is_not_cut_off_by_its_window(seed: int) -> None:
    patch = blob(np.random.default_rng(seed), MIDDLE, radius=12).coverage()
    border = np.concatenate([patch[0], patch[-1], patch[:, 0], patch[:, -1]])
    assert patch.max() == 1
    assert border.max() == 0


@pytest.mark.parametrize("centre", [(-30.0, 10.0), (0.0, 0.0), (SIZE + 50.0, SIZE + 50.0)])
def test_shapes_may_lie_outside_of_the_image(centre: tuple[float, float]) -> None:
    assert disc(centre, 5).coverage().sum() < math.pi * 25 * SUPERSAMPLING**2


def test_text_is_where_it_should_be() -> None:
    line = text("UNIT 7", (80, 60), height=10)
    rows, columns = line.window
    assert (rows.start + rows.stop) / 2 == pytest.approx(60 * SUPERSAMPLING, abs=1)
    assert (columns.start + columns.stop) / 2 == pytest.approx(80 * SUPERSAMPLING, abs=1)
    assert 0.1 < line.coverage().mean() < 0.7
    assert columns.stop - columns.start > 2 * (rows.stop - rows.start)
    turned = text("UNIT 7", (80, 60), height=10, angle=math.pi / 2)
    assert turned.coverage().shape[0] > 2 * turned.coverage().shape[1]


@pytest.mark.parametrize(("period", "octaves"), [(4, 1), (20, 1), (60, 3)])
def test_noise_has_unit_deviation(period: float, octaves: int) -> None:
    fields = [smooth_noise(np.random.default_rng(seed), period, octaves) for seed in range(25)]
    assert np.std(fields) == pytest.approx(1, abs=0.2)
    assert np.mean(fields) == pytest.approx(0, abs=0.2)


def test_path_has_its_length_and_its_middle() -> None:
    path = wandering_path(np.random.default_rng(0), MIDDLE, length=80, bend=2)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps.sum() == pytest.approx(80, rel=0.05)
    assert np.allclose(path[len(path) // 2], MIDDLE)


def test_log_uniform_stays_in_its_range() -> None:
    rng = np.random.default_rng(0)
    drawn = [log_uniform(rng, 2, 50) for _ in range(5000)]
    assert min(drawn) >= 2
    assert max(drawn) <= 50
    assert np.median(drawn) == pytest.approx(10, rel=0.2)
