"""Choice of points that are far from each other."""

import pytest
import torch
from anomalib.models.components import KCenterGreedy

from anomalib_unias.models.components import farthest_points
from tensor_sizes import TensorSizes


def test_choice_is_that_of_anomalib():
    points = torch.randn(500, 1, 16)  # anomalib projects inputs of two dimensions
    torch.manual_seed(0)
    chosen, _ = farthest_points(points.flatten(1), 40)
    torch.manual_seed(0)
    assert chosen.tolist() == KCenterGreedy(points, 40.5 / 500).select_coreset_idxs()


def test_distances_are_those_to_the_nearest_chosen_point():
    points = torch.randn(500, 16)
    chosen, squared = farthest_points(points, 40)
    torch.testing.assert_close(squared.sqrt(), torch.cdist(points, points[chosen]).amin(dim=1), atol=3e-3, rtol=1e-4)
    assert squared[chosen].max() == 0
    assert squared.min() == 0


def test_all_points_can_be_chosen():
    chosen, squared = farthest_points(torch.randn(7, 3), 7)
    assert sorted(chosen.tolist()) == list(range(7))
    assert squared.max() == 0


def test_only_the_squares_take_memory_of_the_size_of_the_points():
    with TensorSizes() as recorded:
        farthest_points(torch.randn(500, 16), 40)
    assert [size for size in recorded.sizes if size > 500] == [500 * 16, 500 * 16]  # the points, their squares


@pytest.mark.parametrize("count", [0, 8])
def test_impossible_number(count):
    with pytest.raises(ValueError, match=f"between 1 and the number of points, 7, got {count}"):
        farthest_points(torch.randn(7, 3), count)
