"""Pictures are decided by their seed, and masks are exact."""

import hashlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from anomalib_unias.data.rendering.camera import changed_pixels
from anomalib_unias.data.rendering.drawing import SIZE
from anomalib_unias.data.rendering.sample import FAINTEST_DEFECT, SCENES, SMALLEST_DEFECT, Sample, render

KINDS = [(category, kind) for category, scene in SCENES.items() for kind in scene.defects]

rendered = cache(render)


@pytest.fixture(params=KINDS, ids="-".join)
def defective(request: pytest.FixtureRequest) -> Sample:
    category, kind = request.param
    return rendered(category, f"test/{kind}", 0, seed=0)


def test_there_are_enough_categories_and_kinds() -> None:
    assert len(SCENES) >= 4
    assert all(len(scene.defects) >= 5 for scene in SCENES.values())


def test_mask_is_exact(defective: Sample) -> None:
    change = np.abs(defective.image.astype(int) - defective.flawless).max(axis=2)
    assert defective.mask.shape == defective.image.shape[:2] == (SIZE, SIZE)
    assert change[~defective.mask].max() == 0
    assert (change[defective.mask] > 0).mean() > 0.85


def test_defect_is_large_and_strong_enough_to_be_seen(defective: Sample) -> None:
    change = np.abs(defective.image.astype(float) - defective.flawless).max(axis=2)
    assert SMALLEST_DEFECT <= defective.mask.sum() < 0.25 * SIZE**2
    assert change[defective.mask].mean() / 255 >= 0.9 * FAINTEST_DEFECT


def test_the_plainest_of_some_defects_is_taken() -> None:
    def change(index: int, draws: int) -> float:
        sample = rendered("flange", "test/scratch", index, seed=0, defect_draws=draws)
        return float(np.abs(sample.image.astype(float) - sample.flawless).sum())

    single, plain = (np.array([change(index, draws) for index in range(3)]) for draws in (1, 4))
    assert (plain >= single).all()
    assert plain.sum() > 1.3 * single.sum()


@pytest.mark.parametrize("category", SCENES)
def test_good_picture_has_no_defect(category: str) -> None:
    sample = rendered(category, "test/good", 0, seed=0)
    assert sample.image.shape == (SIZE, SIZE, 3)
    assert sample.image.dtype == np.uint8
    assert not sample.mask.any()
    assert (sample.image == sample.flawless).all()
    assert 40 < sample.image.mean() < 200
    assert (sample.image == 255).mean() < 0.05


@pytest.mark.parametrize("category", SCENES)
def test_pictures_differ_by_index_folder_and_seed(category: str) -> None:
    pictures = [
        rendered(category, "train/good", 0, seed=0),
        rendered(category, "train/good", 1, seed=0),
        rendered(category, "test/good", 0, seed=0),
        rendered(category, "train/good", 0, seed=1),
    ]
    digests = {sample.image.tobytes() for sample in pictures}
    assert len(digests) == len(pictures)


@pytest.mark.parametrize(("category", "kind"), [(category, min(scene.defects)) for category, scene in SCENES.items()])
def test_picture_does_not_depend_on_what_was_rendered_before(category: str, kind: str) -> None:
    first, again = rendered(category, f"test/{kind}", 0, seed=0), render(category, f"test/{kind}", 0, seed=0)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()


def test_picture_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib, sys; from anomalib_unias.data.rendering.sample import render;"
        "print(hashlib.sha256(render('gravel', 'test/foreign_stone', 0, seed=0).image.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    here = rendered("gravel", "test/foreign_stone", 0, seed=0).image.tobytes()
    assert there == hashlib.sha256(here).hexdigest()


def test_changed_pixels_drops_specks_and_closes_gaps() -> None:
    clean = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    defective = clean.copy()
    defective[10, 10] += 0.2
    defective[50:60, 50:60, 1] += 0.2
    defective[55, 55] = 0.5
    mask = changed_pixels(clean, defective)
    assert mask.sum() == 100
    assert mask[50:60, 50:60].all()
    assert not changed_pixels(clean, clean + 1 / 255).any()
