"""Boxes and areas of anomalous regions."""

import numpy as np

from anomalib_unias.deploy.regions import Region, find_regions


def test_regions_in_pixels_of_the_image():
    mask = np.zeros((10, 20), bool)
    mask[1:3, 2:6] = True
    mask[7:10, 17:20] = True
    found = find_regions(mask, (100, 100))
    assert found == [Region(85, 70, 15, 30, 450), Region(10, 10, 20, 20, 400)]


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.eye(4, dtype=bool)
    assert find_regions(mask, (4, 4)) == [Region(0, 0, 4, 4, 4)]


def test_no_region():
    assert find_regions(np.zeros((4, 4), bool), (8, 8)) == []


def test_a_pixel_of_a_smaller_image_is_not_lost():
    mask = np.zeros((100, 100), bool)
    mask[50, 50] = True
    assert find_regions(mask, (10, 10)) == [Region(5, 5, 1, 1, 1)]
