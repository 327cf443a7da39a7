"""Pictures are decided by their seed, and masks are true."""

import hashlib
import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pytest

from anomalib_unias.data.built_in.pictures import KINDS, Picture, picture
from anomalib_unias.data.built_in.products import PRODUCTS, SIZE

made = cache(picture)


@pytest.fixture(params=[(category, kind) for category in PRODUCTS for kind in KINDS], ids="-".join)
def defective(request: pytest.FixtureRequest) -> Picture:
    category, kind = request.param
    return made(category, f"test/{kind}", 0, seed=0, defect_draws=3)


def test_defect_lies_in_its_mask(defective: Picture) -> None:
    change = np.abs(defective.image.astype(float) - defective.normal).mean(axis=2)
    assert defective.mask.shape == defective.image.shape[:2] == (SIZE, SIZE)
    assert 12 <= defective.mask.sum() <= 0.7 * SIZE**2
    assert change[defective.mask].mean() > 0.02 * 255
    # Soft edges are left out of the mask.
    assert change[~defective.mask].sum() < 0.5 * change.sum()


def test_the_plainest_of_some_defects_is_taken() -> None:
    def change(index: int, draws: int) -> float:
        drawn = made("flange", "test/spot", index, seed=0, defect_draws=draws)
        change = cv2.GaussianBlur(drawn.image.astype(float) - drawn.normal, (0, 0), 3)
        return float(np.abs(change)[drawn.mask].mean())

    single, plain = (np.array([change(index, draws) for index in range(3)]) for draws in (1, 4))
    assert (plain >= single - 1).all()
    assert plain.sum() > 1.3 * single.sum()


@pytest.mark.parametrize("category", PRODUCTS)
def test_good_picture_has_no_defect(category: str) -> None:
    good = made(category, "test/good", 0, seed=0)
    assert good.image.shape == (SIZE, SIZE, 3)
    assert good.image.dtype == np.uint8
    assert not good.mask.any()
    assert (good.image == good.normal).all()
    assert 40 < good.image.mean() < 200
    assert (good.image == 255).mean() < 0.05
    assert (good.image == 0).mean() < 0.05


@pytest.mark.parametrize("category", PRODUCTS)
def test_pictures_differ_by_index_folder_and_seed(category: str) -> None:
    places = [("train/good", 0, 0), ("train/good", 1, 0), ("test/good", 0, 0), ("train/good", 0, 1)]
    assert len({made(category, folder, index, seed).image.tobytes() for folder, index, seed in places}) == 4


def test_picture_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib; from anomalib_unias.data.built_in.pictures import picture;"
        "print(hashlib.sha256(picture('gravel', 'test/patch', 0, seed=0).image.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    here = made("gravel", "test/patch", 0, seed=0).image.tobytes()
    assert there == hashlib.sha256(here).hexdigest()
